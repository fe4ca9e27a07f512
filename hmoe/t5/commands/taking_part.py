"""Takes part in a run of many processes for the length of a command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hmoe.startup import signals
from hmoe.startup.console import Console
from hmoe.startup.exit_statuses import LOST
from hmoe.startup.workers import Workers
from hmoe.t5.sessions import agreement, processes


@contextlib.contextmanager
def in_run(workers: Workers | None, console: Console) -> Iterator[None]:
    """Starts the server of this process, and waits for the others at the begin and at the end.

    Args:
      workers: the processes of the run; None for one alone.
      console: prints lines for the user.

    Raises:
      ValueError: this process is not the one that others reach at its address.
      RunFailedError: the server cannot be started, or another process does not come.
    """
    if workers is None:
        yield
        return

    def end(sentence: str) -> None:
        # The main thread waits in a collective that will never end.
        console.error(f"hmoe: error: {sentence}")
        signals.end_process(LOST)

    found = processes.start(workers, end)
    assert found.watch is not None
    found.watch.wait_for_all(console.say)
    found.watch.start()
    yield
    agreement.leave_together()
