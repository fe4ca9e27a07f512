"""Asks the other processes of a run, again and again, whether they are still there.

A process that was killed ends the collectives of some of the others with an error. One that hangs,
was stopped, or whose network is gone does not: they would wait for it for ever. TensorFlow's server
answers questions about its status whatever the process is computing, so the watch asks it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from hmoe.startup.errors import ProcessLostError
from hmoe.startup.workers import Workers
from hmoe.t5.sessions import peer_status
from hmoe.t5.sessions.peer_status import Peer

# Shares of `lost_after`: between two rounds of questions; for one answer; without an answer before
# a process counts as lost; and for which a process that knows waits before it ends, so that all
# others notice the lost one and not this one.
_INTERVAL, _PATIENCE, _SILENCE, _LINGER = 0.1, 0.1, 0.6, 0.2
# Their limits in seconds; of the interval for each process, since questions cost time.
_MIN_INTERVAL, _INTERVAL_PER_PEER = 1.0, 0.06
_MAX_PATIENCE, _MAX_LINGER = 2.0, 5.0
# The wait before this process ends where another has ended, and how much later than the first one
# that was lost another may have answered to be called lost as well; in intervals.
_SHORT_LINGER, _SAME_TIME = 3.0, 1.5
# A port that was closed this often belongs to a process that has ended, whatever `lost_after` is.
# By then the others have ended by themselves if they have the same error.
_REFUSALS = 3
# Silent rounds that a busy machine does not explain. Time alone does not count: this process may
# have been stopped itself.
_SILENT_ROUNDS = 2
# Seconds between two questions at the start, and after which the user is told who is missing.
_START_INTERVAL, _SAID_AFTER = 0.5, 10.0
# Seconds in which a process ends after its failure has ended the collectives of others.
_SETTLE, _SETTLE_INTERVAL = 10.0, 0.25
# Seconds in which a process that has lost another one ends by itself.
_LEAVE_WITHIN = 10.0


class PeerWatch:
    """Watches the other processes of a run.

    Args:
      workers: the processes.
      on_loss: called from a thread with a sentence when one is lost; it ends this process.
    """

    def __init__(self, workers: Workers, on_loss: Callable[[str], None]):
        self._workers = workers
        self._on_loss = on_loss
        span = workers.lost_after
        wanted = max(_MIN_INTERVAL, len(workers.addresses) * _INTERVAL_PER_PEER)
        self._interval = min(wanted, span * _INTERVAL)
        self._patience = min(_MAX_PATIENCE, span * _PATIENCE)
        self._silence = span * _SILENCE
        self._linger = min(_MAX_LINGER, span * _LINGER)
        self._short_linger = _SHORT_LINGER * self._interval
        self._peers = [
            Peer(number, address)
            for number, address in enumerate(workers.addresses)
            if number != workers.index
        ]
        self._came: set[int] = set()  # who has answered at the start
        self._asking = threading.Lock()
        self._ended = threading.Event()
        self._expects_ends = False

    def wait_for_all(self, say: Callable[[str], None]) -> None:
        """Waits until every process has started its server.

        Args:
          say: prints a line for the user, if it takes longer than a few seconds.

        Raises:
          ValueError: another process answers at the address of this one, or nobody does.
          ProcessLostError: one does not answer within `start_within` seconds.
        """
        begun, said = time.monotonic(), False
        # In one round, since one that has answered may have ended.
        while missing := self._missing():
            waited = time.monotonic() - begun
            if waited > self._workers.start_within:
                # The others may have waited as long, and ended for the same reason.
                self._raise_missing([n for n in missing if n not in self._came] or missing)
            if waited > _SAID_AFTER and not said:
                say(f"Waiting for {names(self._workers, missing)} ...")
                said = True
            time.sleep(_START_INTERVAL)

    def _missing(self) -> list[int]:
        """Asks all processes, and this one at its own address; returns those that do not answer."""
        for peer in self._peers:
            peer.forget()
        self._ask()
        missing = [peer.number for peer in self._peers if peer.misses]
        self._came.update(peer.number for peer in self._peers if not peer.misses)
        return missing if self._is_reached() else sorted([*missing, self._workers.index])

    def _is_reached(self) -> bool:
        """Returns whether others reach this process at its address, and no other process there."""
        address = self._workers.addresses[self._workers.index]
        mine = peer_status.identity(f"localhost:{self._workers.own.port}", self._patience)
        found = peer_status.identity(address, self._patience)
        if None not in (mine, found) and mine != found:
            raise ValueError(
                f"another process answers at {address}, the address of this one: "
                f"{self._workers.given_by} gives number {self._workers.index} to both. Start each "
                "process once, on the machine that its address names, with its own number "
                "(--worker_index)"
            )
        return found is not None

    def _raise_missing(self, missing: list[int]) -> None:
        workers = self._workers
        if workers.index in missing:
            raise ValueError(
                f"nobody answers at {workers.addresses[workers.index]}, where "
                f"{workers.given_by} lets the others look for this process (number "
                f"{workers.index}); name an address at which all of them reach it"
            )
        raise ProcessLostError(
            f"{names(workers, missing)} did not answer within {workers.start_within:g} s "
            "(--start_within). Start every process with the same --workers and with its own "
            "--worker_index, and see that nothing between them closes these ports"
        )

    def start(self) -> None:
        """Begins to watch, once all have started."""
        if self._peers:
            threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def expect_ends(self) -> None:
        """Takes a process whose port is closed for one that is done, as it may be from now on."""
        self._expects_ends = True

    def stop(self) -> None:
        """Ends the watch, before the processes end."""
        self._ended.set()

    def lost(self) -> str | None:
        """Looks for the process whose end has ended a collective of this one.

        It takes a few seconds, in which the other processes can notice the same. From then on this
        process is expected to end, and is ended otherwise.

        Returns:
          A sentence about the lost process, or None if all others still answer.
        """
        self.stop()
        end = time.monotonic() + _SETTLE
        while time.monotonic() < end:
            self._ask()
            found = [p for p in self._peers if p.refusals or p.misses >= _SILENT_ROUNDS]
            if found:
                sentence = f"{self._first(found)} ended or is out of reach"
                time.sleep(self._short_linger)
                timer = threading.Timer(_LEAVE_WITHIN, self._on_loss, [sentence])
                timer.daemon = True
                timer.start()
                return sentence
            time.sleep(_SETTLE_INTERVAL)
        return None

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            self._ask()
            sentence, linger = self._finding()
            if sentence and not self._ended.wait(linger):
                self._on_loss(sentence)
                return

    def _ask(self) -> None:
        with self._asking:
            peer_status.ask(self._peers, self._patience)

    def _finding(self) -> tuple[str, float]:
        """Returns a sentence about the processes that are lost, or "", and how long to linger."""
        silent = [
            peer
            for peer in self._peers
            if peer.misses >= _SILENT_ROUNDS and peer.unheard() > self._silence
        ]
        ended = [peer for peer in self._peers if peer.refusals >= _REFUSALS]
        if ended and not self._expects_ends:
            sentence = f"{self._first([*ended, *silent])} ended or is out of reach"
            return sentence, self._short_linger
        if silent:
            return (
                f"{self._first(silent)} did not answer for {self._silence:g} s (--lost_after): "
                "stopped, hanging, or out of reach"
            ), self._linger
        return "", 0.0

    def _first(self, lost: list[Peer]) -> str:
        """Names those that were lost first; others may have ended because of these."""
        first = max(peer.unheard() for peer in lost)
        same_time = _SAME_TIME * self._interval
        numbers = {peer.number for peer in lost if peer.unheard() > first - same_time}
        return names(self._workers, sorted(numbers))


def names(workers: Workers, numbers: Iterable[int]) -> str:
    """Returns how processes are called in messages."""
    return " and ".join(f"process {n} ({workers.addresses[n]})" for n in numbers)
