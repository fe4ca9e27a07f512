"""Bytes on the sockets of a process, as the kernel counts them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from typing import NamedTuple

# Where Linux's `struct tcp_info` has tcpi_bytes_acked and tcpi_bytes_received.
_BYTES = struct.Struct("=120xQQ")


class OnSockets(NamedTuple):
    """Bytes that a process has sent and received on the TCP connections that are open."""

    sent: int
    received: int


def on_sockets() -> OnSockets:
    """Returns the bytes of this process, without the headers of packets (Linux alone)."""
    sent = received = 0
    for name in os.listdir("/proc/self/fd"):
        # A descriptor may be closed meanwhile; a socket may listen, or be no TCP socket.
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as each:
                    info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES.size)
                acked, got = _BYTES.unpack(info)
                sent, received = sent + acked, received + got
    return OnSockets(sent, received)
