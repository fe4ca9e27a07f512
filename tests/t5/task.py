"""A task of a TensorFlow cluster in a process of its own, and the bytes that go over its sockets.

As a program, `python -m tests.t5.task ADDRESS,ADDRESS,... INDEX`, it serves until its standard input
ends, and answers every line of it with the bytes so far.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import sockets
from tests.t5 import server


def free_addresses(number: int) -> list[str]:
    """Addresses on this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in taken]


class Task:
    """A task of a cluster, in another process."""

    def __init__(self, addresses: Sequence[str], index: int, log: Path):
        """Starts it; it answers once `wait` has returned."""
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.t5.task", ",".join(addresses), str(index)],
                cwd=server.ROOT,
                env={**server.environment(), "CUDA_VISIBLE_DEVICES": ""},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def wait(self) -> None:
        """Waits until it serves."""
        self._hear()

    def bytes_so_far(self) -> int:
        """Bytes that went over its sockets, in either direction."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> int:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        assert answer, f"the task ended: {self._log.read_text()}"
        return int(answer)

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def cluster(number: int, folder: Path) -> Iterator[tuple[list[str], list[Task]]]:
    """Tasks that can reach one another, and their addresses, until the end of the block."""
    addresses = free_addresses(number)
    tasks: list[Task] = []
    try:
        for index in range(number):
            tasks.append(Task(addresses, index, folder / f"task_{index}"))
        for each in tasks:
            each.wait()
        yield addresses, tasks
    finally:
        for each in tasks:
            each.close()


def main() -> None:
    """Serves as a task."""
    import tensorflow as tf

    addresses, index = sys.argv[1].split(","), int(sys.argv[2])
    served = tf.distribute.Server({"worker": addresses}, job_name="worker", task_index=index)
    assert served.target
    print(0, flush=True)
    for _ in sys.stdin:
        print(sum(sockets.on_sockets()), flush=True)


if __name__ == "__main__":
    main()
