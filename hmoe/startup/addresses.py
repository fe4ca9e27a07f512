"""Addresses of processes, "host:port", as users write them."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

# A name or an IPv4 address, or an IPv6 address in brackets, and a port.
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>\w[\w.-]*)):(?P<port>\d+)")
_LAST_PORT = 65535


class Address(NamedTuple):
    """Where a process is reached.

    Attributes:
      host: name or IP address of its machine, without brackets.
      port: number of the port.
    """

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it; names other than localhost are not looked up."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse(text: str) -> Address:
    """Reads an address.

    Args:
      text: such as "10.0.0.2:2222", "node-3:2222" or "[::1]:2222".

    Raises:
      ValueError: it is none; the message continues one that ends with the address.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(
            "which is no address; it must be host:port, such as 10.0.0.2:2222 or [::1]:2222"
        )
    port = int(found["port"])
    if not 1 <= port <= _LAST_PORT:
        raise ValueError(f"whose port is {port}; a port is a number from 1 to {_LAST_PORT}")
    if found["six"]:
        try:
            ipaddress.IPv6Address(found["six"])
        except ValueError:
            raise ValueError(f"but {found['six']} is no IPv6 address, such as [::1]") from None
    return Address(found["six"] or found["host"], port)
