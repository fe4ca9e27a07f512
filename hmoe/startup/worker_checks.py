"""Checks the addresses of the processes of a run, before TensorFlow starts a server."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence

from hmoe.startup import addresses as addresses_lib
from hmoe.startup.addresses import Address
from hmoe.startup.request import Request
from hmoe.startup.workers import Workers

# What the messages about a server of TensorFlow all have to say.
_RISK = (
    "TensorFlow's server listens on all interfaces, has no authentication, and runs any graph that "
    "it is sent: whoever reaches its port can run code as you"
)


def check(request: Request) -> None:
    """Raises ValueError if the processes of a request cannot be reached, or should not be."""
    workers = request.workers
    if workers is None:
        return
    if request.machine.tpu is not None:
        remedy = (
            "leave --workers out"
            if workers.given_by == "--workers"
            else f"start without it (env -u {workers.given_by} hmoe ...)"
        )
        raise ValueError(
            f"{workers.given_by} and --tpu do not go together, since one process drives a TPU; "
            f"{remedy}"
        )
    check_trusted(workers.addresses, workers.given_by, trusted=workers.trust_network)


def check_trusted(addresses: Sequence[str], given_by: str, *, trusted: bool) -> None:
    """Raises ValueError for an address that other machines reach, unless the network is trusted.

    Args:
      addresses: the address of each process.
      given_by: what named them, for the message.
      trusted: whether the user trusts the network.
    """
    reachable = [text for text in addresses if not addresses_lib.parse(text).is_loopback]
    if reachable and not trusted:
        raise ValueError(
            f"{given_by} has {reachable[0]!r}, which other machines may reach. {_RISK}. Put a "
            "firewall or a private network around these machines (docs/security.md), then give "
            "--trust_network"
        )


def check_port(workers: Workers) -> list[str]:
    """Opens and closes the port of this process.

    Returns:
      A sentence to warn of if no interface of this machine has the address of this process.

    Raises:
      ValueError: the port cannot be opened.
    """
    address = workers.own
    try:
        with listening(address.port):
            pass
    except OSError as error:
        what = "is in use by another program; end that"
        if error.errno != errno.EADDRINUSE:
            what = f"cannot be opened ({error.strerror}); change that"
        raise ValueError(
            f"port {address.port} of this machine, which {workers.given_by} gives to this process "
            f"(number {workers.index}), {what}, or choose another port"
        ) from error
    return _warn_of(address, workers)


@contextlib.contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Listens on a port of all interfaces, as TensorFlow's server does.

    Args:
      port: the port; 0 for any that is free.

    Yields:
      The socket.

    Raises:
      OSError: the port cannot be opened.
    """
    six = socket.has_dualstack_ipv6()
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET) as found:
        if six:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # A connection that was closed a moment ago is no program that listens.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("::" if six else "0.0.0.0", port))
        found.listen(1)
        yield found


def _warn_of(address: Address, workers: Workers) -> list[str]:
    problem = _not_here(address.host)
    if not problem:
        return []
    return [
        f"{workers.given_by} gives this process (number {workers.index}) the address {address}, "
        f"but {problem}; the others will look for it there"
    ]


def _not_here(host: str) -> str:
    """Returns a phrase that tells why a host is not this machine, or ""."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{host!r} cannot be looked up ({error.strerror or error})"
    for family, kind, _, _, where in found:
        with socket.socket(family, kind) as attempt:
            try:
                attempt.bind(where)
                return ""
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    return f"{host!r} cannot be used here ({os.strerror(error.errno or 0)})"
    return f"no interface of this machine has {host!r}"
