"""Asks TensorFlow's servers in other processes for their status, which shows that they live."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Sequence

import grpc

from hmoe.startup import addresses as addresses_lib

_STATUS = "/tensorflow.WorkerService/GetStatus"


@dataclasses.dataclass
class Peer:
    """What is known of another process.

    Attributes:
      number: its number in the run.
      address: its address.
      identity: what its server answers; None before it has answered.
      heard: when it answered last, by `time.monotonic`.
      misses: rounds since then without an answer.
      refusals: how many of these in a row found its port closed, or another process there.
    """

    number: int
    address: str
    identity: bytes | None = None
    heard: float = dataclasses.field(default_factory=time.monotonic)
    misses: int = 0
    refusals: int = 0

    def forget(self) -> None:
        """Forgets which server answered: one that was ended and started again is welcome."""
        self.identity = None

    def unheard(self) -> float:
        """Returns the seconds since it answered last."""
        return time.monotonic() - self.heard

    def ask(self, seconds: float) -> None:
        """Asks it, and notes what comes of it within some seconds."""
        found = identity(self.address, seconds)
        if found is not None and self.identity in (None, found):
            self.identity, self.heard = found, time.monotonic()
            self.misses = self.refusals = 0
            return
        self.misses += 1
        is_closed = found is not None or _is_closed(self.address, seconds)
        self.refusals = self.refusals + 1 if is_closed else 0


def ask(peers: Sequence[Peer], seconds: float) -> None:
    """Asks several processes at once."""
    threads = [threading.Thread(target=peer.ask, args=[seconds], daemon=True) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def identity(address: str, seconds: float) -> bytes | None:
    """Asks the server at an address which one it is.

    Args:
      address: its address.
      seconds: in which it has to answer.

    Returns:
      A description of its devices, to which every server adds random numbers of its own; None if no
      server of TensorFlow answers.
    """
    # A channel that failed waits longer and longer before it tries again, so each has its own.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        status = channel.unary_unary(_STATUS, lambda sent: sent, lambda received: bytes(received))
        try:
            return status(b"", timeout=seconds, wait_for_ready=False)
        except grpc.RpcError:
            return None


def _is_closed(address: str, seconds: float) -> bool:
    """Returns whether a machine says that nobody listens at an address."""
    parsed = addresses_lib.parse(address)
    with contextlib.suppress(OSError):
        try:
            socket.create_connection((parsed.host, parsed.port), timeout=seconds).close()
        except ConnectionRefusedError:
            return True
    return False
