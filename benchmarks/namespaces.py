"""Several "hosts" on one machine: network namespaces, fast inside and with slow links between.

    host 0: slow --- port0 \
    host 1: slow --- port1 - bridge, in a namespace of its own
    host 2: slow --- port2 /

Each host has a link of its own, full duplex, which `tc ... tbf` limits in both directions; inside a
host, processes reach one another by its own address or by loopback at the speed of memory. This
needs root and the programs of iproute2 and util-linux, and netem's delays are not used.

A namespace here has no name: it lasts as long as a process in it. `cat` keeps it until its input
ends, which it does however this process ends, and what runs in a host is killed with this process.
So nothing stays behind, not even after `kill -9`.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple

_PROGRAMS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
# The host's end of its link.
LINK = "slow"
_BRIDGE = "bridge"
# Of a subnet that is kept for such tests (RFC 2544); nothing outside the namespaces sees it.
_SUBNET = "198.18.0"
# Bytes that may pass at once: a segment as large as the kernel hands to a link, and at least 2 ms.
_BURST, _BURST_SECONDS = 65536 + 4096, 0.002
# How long a packet may wait in the queue of a link before it is dropped. So long that none is, as
# in networks that are built for such exchanges: after a loss, TCP may wait for 200 ms.
_QUEUE = "2s"


class NamespacesError(Exception):
    """Hosts cannot be made here; the message says why."""


class Counted(NamedTuple):
    """Bytes over a host's link so far, with the headers of all packets."""

    sent: int
    received: int


def missing() -> str | None:
    """Returns what this machine lacks to make hosts, as a sentence; None if nothing is known."""
    if os.geteuid() != 0:
        return "network namespaces need root; run this as root, for example with sudo"
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            return f"the program '{program}' is not here; install the package {package}"
    return None


class Host:
    """A namespace with a link to the others.

    Attributes:
      address: where the others reach it.
    """

    def __init__(self, address: str):
        """Makes the namespace.

        Raises:
          NamespacesError: it cannot be made.
        """
        self.address = address
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "--", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C ends the benchmark, which then ends this.
        )
        keeper = self._keeper
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        # An answer shows that the namespace is there.
        with contextlib.suppress(BrokenPipeError):
            keeper.stdin.write(b"\n")
            keeper.stdin.flush()
        if not keeper.stdout.readline():
            said = keeper.stderr.read().decode().strip()
            self.close()
            raise NamespacesError(f"no network namespace can be made: {said}")

    @property
    def pid(self) -> int:
        """A process in the namespace."""
        return self._keeper.pid

    def command(self, words: Sequence[str]) -> list[str]:
        """Returns a command that runs another one in the host, and ends with this process."""
        inside = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]
        return [*inside, "setpriv", "--pdeathsig", "KILL", "--", *words]

    def popen(self, words: Sequence[str], **options: Any) -> subprocess.Popen:
        """Starts a command in the host; options are those of `subprocess.Popen`.

        The command is killed when the thread that started it ends.
        """
        return subprocess.Popen(self.command(words), **options)

    def configure(self, words: str) -> None:
        """Runs a command of iproute2 in the host.

        Raises:
          NamespacesError: it failed.
        """
        done = subprocess.run(self.command(words.split()), capture_output=True, text=True)
        if done.returncode:
            raise NamespacesError(f"'{words}' failed: {(done.stderr or done.stdout).strip()}")

    def counted(self) -> Counted:
        """Returns the bytes that have gone over the link."""
        lines = pathlib.Path(f"/proc/{self.pid}/net/dev").read_text().splitlines()
        fields = next(line for line in lines if line.strip().startswith(f"{LINK}:"))
        numbers = fields.split(":")[1].split()
        return Counted(sent=int(numbers[8]), received=int(numbers[0]))

    def close(self) -> None:
        """Lets the namespace go, as soon as nothing runs in it."""
        self._keeper.kill()
        self._keeper.communicate()


class Network:
    """Hosts that reach one another over slow links; a context that takes them down at its end.

    Attributes:
      hosts: the hosts.
    """

    def __init__(self, num_hosts: int, bits_per_second: float | None = None):
        """Makes the hosts.

        Args:
          num_hosts: how many.
          bits_per_second: the rate of each host's link, in either direction; None for no limit.

        Raises:
          NamespacesError: this machine cannot make them; the message says what it lacks.
        """
        lack = missing()
        if lack:
            raise NamespacesError(lack)
        self.hosts: list[Host] = []
        self._switch = Host("")
        try:
            self._switch.configure(f"ip link add {_BRIDGE} type bridge")
            self._switch.configure(f"ip link set {_BRIDGE} up")
            for number in range(num_hosts):
                self.hosts.append(Host(f"{_SUBNET}.{number + 1}"))
                self._join(number)
            self.limit(bits_per_second)
        except BaseException:
            self.close()
            raise

    def _join(self, number: int) -> None:
        """Links a host to the bridge."""
        host, port = self.hosts[number], f"port{number}"
        self._switch.configure(f"ip link add {port} type veth peer name {LINK} netns {host.pid}")
        self._switch.configure(f"ip link set {port} master {_BRIDGE} up")
        host.configure("ip link set lo up")
        host.configure(f"ip address add {host.address}/24 dev {LINK}")
        host.configure(f"ip link set {LINK} up")

    def limit(self, bits_per_second: float | None) -> None:
        """Sets the rate of each host's link, in either direction; None for no limit."""
        for number, host in enumerate(self.hosts):
            for where, device in ((host, LINK), (self._switch, f"port{number}")):
                if bits_per_second is None:
                    where.configure(f"tc qdisc replace dev {device} root pfifo_fast")
                    continue
                burst = max(_BURST, int(bits_per_second / 8 * _BURST_SECONDS))
                where.configure(
                    f"tc qdisc replace dev {device} root tbf rate {int(bits_per_second)}bit"
                    f" burst {burst} latency {_QUEUE}"
                )

    def sent(self) -> int:
        """Returns the bytes that all hosts have sent over their links."""
        return sum(host.counted().sent for host in self.hosts)

    def close(self) -> None:
        """Takes all hosts down."""
        for host in [*self.hosts, self._switch]:
            host.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()
