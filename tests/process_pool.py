"""A few processes that share meshes, kept alive for many cases: starting one takes seconds."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from tests import patience


class ProcessPool:
    """Runs functions in all of some processes at once, each with its number.

    Args:
      size: number of processes.
    """

    def __init__(self, size: int):
        self.size = size
        # Imports once what takes seconds in each process, and forks the processes from that.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["hmoe.t5.sessions.processes", "tests.run_layer"])
        with contextlib.ExitStack() as stack:
            addresses = [stack.enter_context(_free_port()) for _ in range(size)]
        self._connections: list[Connection] = []
        self._processes = []
        for index in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, addresses, index), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def run(self, function: Callable, *arguments: Any, **more: Any) -> list[Any]:
        """Calls a function of a module in every process.

        Returns:
          What each process returned, by its number.

        Raises:
          AssertionError: it failed in a process; the message has the traceback.
        """
        name = (function.__module__, function.__qualname__)
        for connection in self._connections:
            connection.send((name, arguments, more))
        results, problems = [], []
        for index, connection in enumerate(self._connections):
            if not connection.poll(patience.HANG):
                problems.append(f"process {index} does not answer")
                break
            problem, result = connection.recv()
            problems += [f"process {index}: {problem}"] if problem else []
            results.append(result)
        if problems:
            self.close()
            raise AssertionError("\n".join(problems))
        return results

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()
            process.join()


@contextlib.contextmanager
def _free_port() -> Iterator[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{found.getsockname()[1]}"


def _work(connection: Connection, addresses: list[str], index: int) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    from hmoe import compat

    compat.behave_like_v1()
    from hmoe.startup.workers import Workers
    from hmoe.t5.sessions import agreement, processes

    processes.start(Workers(addresses=tuple(addresses), index=index))
    # TensorFlow numbers the runs of sessions in each process, from the first one's number at the
    # time of the other's first run. If the first had gone ahead by then, they would never meet.
    agreement.check({"next step": "test"})
    while True:
        try:
            (module, name), arguments, more = connection.recv()
        except EOFError:
            os._exit(0)  # a server cannot be stopped
        try:
            function: Any = importlib.import_module(module)
            for part in name.split("."):
                function = getattr(function, part)
            answer = (None, function(*arguments, **more))
        except BaseException:
            answer = (traceback.format_exc(), None)
        connection.send(answer)
