"""Asks the other processes of a run, again and again, whether they are still there.

A process that was killed ends the collectives of the others with an error. One that hangs, was
stopped, or whose network is gone does not: they would wait for it for ever. TensorFlow's server
answers questions about its status whatever the process is computing, so the watch asks it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

import grpc

from hmoe.startup.errors import ProcessLostError
from hmoe.startup.workers import Workers

_STATUS = "/tensorflow.WorkerService/GetStatus"
# Shares of `lost_after`: between two questions; without an answer before a process counts as lost;
# and for which a process that knows waits before it ends, so that the others notice the lost one
# and not this one.
_INTERVAL, _SILENCE, _LINGER = 0.1, 0.6, 0.2
# Seconds in which a process answers that is there.
_ANSWERS_WITHIN = 2.0
# Seconds between two questions to a process that has not started yet.
_START_INTERVAL = 0.5


class PeerWatch:
    """Watches the other processes of a run.

    Args:
      workers: the processes.
      on_loss: called from a thread with a sentence when one does not answer any more.
    """

    def __init__(self, workers: Workers, on_loss: Callable[[str], None]):
        self._workers = workers
        self._on_loss = on_loss
        self._others = [n for n in range(len(workers.addresses)) if n != workers.index]
        self._ended = threading.Event()

    def wait_for_all(self, say: Callable[[str], None]) -> None:
        """Waits until every process has started its server.

        Args:
          say: prints a line for the user, if it takes longer than a few seconds.

        Raises:
          ProcessLostError: one does not answer within `start_within` seconds.
        """
        begun, said = time.monotonic(), False
        missing = self._others
        while missing := [n for n in missing if not answers(self._workers, n)]:
            waited = time.monotonic() - begun
            if waited > self._workers.start_within:
                raise ProcessLostError(
                    f"{names(self._workers, missing)} did not answer within "
                    f"{self._workers.start_within:g} s (--start_within). Start every process with "
                    "the same --workers and with its own --worker_index, and see that nothing "
                    "between them closes these ports"
                )
            if waited > 10 and not said:
                say(f"Waiting for {names(self._workers, missing)} ...")
                said = True
            time.sleep(_START_INTERVAL)

    def start(self) -> None:
        """Begins to watch, once all have started."""
        if self._others:
            threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def stop(self) -> None:
        """Ends the watch, before the processes end."""
        self._ended.set()

    def _watch(self) -> None:
        span = self._workers.lost_after
        heard = dict.fromkeys(self._others, time.monotonic())
        while not self._ended.wait(span * _INTERVAL):
            for number, does in zip(self._others, each_answers(self._workers, self._others)):
                if does:
                    heard[number] = time.monotonic()
            lost = [n for n, when in heard.items() if time.monotonic() - when > span * _SILENCE]
            if lost and not self._ended.wait(span * _LINGER):
                self._on_loss(
                    f"{names(self._workers, lost)} did not answer for {span * _SILENCE:g} s "
                    "(--lost_after): stopped, hanging, or out of reach"
                )
                return


def describe_loss(workers: Workers, error: Exception) -> str:
    """Returns a sentence about the process whose loss ended a collective.

    It takes a few seconds, in which the other processes can notice the same.
    """
    others = [n for n in range(len(workers.addresses)) if n != workers.index]
    gone = [n for n, does in zip(others, each_answers(workers, others)) if not does]
    time.sleep(_ANSWERS_WITHIN)
    if gone:
        return f"{names(workers, gone)} ended or is out of reach"
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"another process of the run ended, or cannot go on: {first}"


def names(workers: Workers, numbers: Iterable[int]) -> str:
    """Returns how processes are called in messages."""
    return " and ".join(f"process {n} ({workers.addresses[n]})" for n in numbers)


def each_answers(workers: Workers, numbers: Sequence[int]) -> list[bool]:
    """Asks several processes at once whether they are there."""
    found = [False] * len(numbers)

    def ask(place: int) -> None:
        found[place] = answers(workers, numbers[place])

    threads = [threading.Thread(target=ask, args=[place]) for place in range(len(numbers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def answers(workers: Workers, number: int) -> bool:
    """Asks a process whether it is there; it counts as gone without an answer in two seconds."""
    # A channel that failed waits longer and longer before it tries again, so each has its own.
    with grpc.insecure_channel(
        workers.addresses[number], options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        status = channel.unary_unary(_STATUS, lambda sent: sent, lambda received: received)
        try:
            status(b"", timeout=_ANSWERS_WITHIN, wait_for_ready=False)
        except grpc.RpcError:
            return False
    return True
