"""The trace that a command replays."""

from __future__ import annotations

from hmoe.analysis import traces
from hmoe.analysis.replay import Replay
from hmoe.startup.request import Request


def of_request(request: Request) -> Replay | None:
    """Reads the trace that a request names.

    Raises:
      ValueError: the file is no trace, or its choices cannot be replayed.
      OSError: it cannot be read.
    """
    if request.replay is None:
        return None
    return Replay(request.replay, traces.read(request.replay))
