"""How many processes `hmoe launch` starts here, and under which addresses all of a run are."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Sequence

from hmoe.launcher import gpus as gpus_lib
from hmoe.startup import addresses as addresses_lib
from hmoe.startup import worker_checks
from hmoe.startup.addresses import Address

THIS_MACHINE = "127.0.0.1"
# Below the range in which systems choose the port of a connection that a program opens.
_PORTS = range(15000, 32000)
_TRIES = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run, of which some run on this machine.

    Attributes:
      hosts: the address of the first process of each host; () for this machine alone, where ports
        are chosen anew for each start.
      host_index: which of the hosts this machine is.
      per_host: number of processes on each host.
      gpus: the GPU of each process of this machine, as CUDA_VISIBLE_DEVICES names it; () for none.
      given: how the number of processes was given, for messages, such as "-n is 3".
    """

    hosts: tuple[Address, ...] = ()
    host_index: int = 0
    per_host: int
    gpus: tuple[str, ...] = ()
    given: str

    @property
    def total(self) -> int:
        """The number of processes of the run."""
        return self.per_host * max(1, len(self.hosts))

    @property
    def numbers(self) -> range:
        """The numbers of the processes on this machine."""
        first = self.host_index * self.per_host
        return range(first, first + self.per_host)

    @property
    def hosts_of_processes(self) -> list[str]:
        """The host of each process, by its number; two of one name on different ports are two."""
        names = [str(host) for host in self.hosts] or [THIS_MACHINE]
        return [name for name in names for _ in range(self.per_host)]

    def addresses(self) -> tuple[str, ...]:
        """Returns the address of each process; on this machine alone, with ports that are free."""
        if not self.hosts:
            return tuple(f"{THIS_MACHINE}:{port}" for port in free_ports(self.per_host))
        return tuple(
            str(Address(host.host, host.port + offset))
            for host in self.hosts
            for offset in range(self.per_host)
        )


def on_this_machine(number: int | None, visible: Sequence[str], slices: int | None) -> Processes:
    """Returns the processes of a run on this machine alone.

    Args:
      number: how many; None for one for each GPU.
      visible: the GPUs of this machine.
      slices: slices of the mesh, which an error recommends; None if they are not known.

    Raises:
      ValueError: there is no number and no GPU, or there are too few GPUs.
    """
    if number is None and not visible:
        raise ValueError(
            "this machine has no GPU to start a process for; give the number of processes, one for "
            f"each slice of the mesh, with -n{f' {slices}' if slices else ''}"
        )
    count = len(visible) if number is None else number
    if number is None:
        given = f"this machine has {count} GPU{'s' * (count != 1)}"
    else:
        given = f"-n is {number}"
    return Processes(per_host=count, gpus=_shared_out(count, visible, given), given=given)


def on_hosts(
    hosts: Sequence[str], host_index: int, per_host: int | None, visible: Sequence[str]
) -> Processes:
    """Returns the processes of a run on several hosts, each of which runs `hmoe launch`.

    Args:
      hosts: "host:port" of each host, where port is that of its first process.
      host_index: which of them this machine is.
      per_host: number of processes on each; None for one for each GPU.
      visible: the GPUs of this machine.

    Raises:
      ValueError: an address or the index is wrong, ports overlap, or there are too few GPUs.
    """
    if per_host is None and not visible:
        raise ValueError(
            "this machine has no GPU to start a process for; give the number of processes on each "
            "host with --workers_per_host"
        )
    count = len(visible) if per_host is None else per_host
    if not 0 <= host_index < len(hosts):
        raise ValueError(
            f"--host_index is {host_index}, but --hosts has {len(hosts)} "
            f"address{'es' * (len(hosts) != 1)}; hosts are numbered from 0 to {len(hosts) - 1}"
        )
    given = f"--hosts has {len(hosts)} of {count} process{'es' * (count != 1)} each"
    return Processes(
        hosts=_parsed(hosts, count),
        host_index=host_index,
        per_host=count,
        gpus=_shared_out(count, visible, given),
        given=given,
    )


def _parsed(hosts: Sequence[str], per_host: int) -> tuple[Address, ...]:
    parsed: list[Address] = []
    for text in hosts:
        try:
            address = addresses_lib.parse(text)
            addresses_lib.parse(str(Address(address.host, address.port + per_host - 1)))
        except ValueError as error:
            raise ValueError(f"--hosts has {text!r}, {error}") from None
        for other in parsed:
            if other.host == address.host and abs(other.port - address.port) < per_host:
                raise ValueError(
                    f"--hosts has {other} and {address}, whose {per_host} processes each would "
                    f"share ports; choose ports {per_host} apart"
                )
        parsed.append(address)
    return tuple(parsed)


def _shared_out(count: int, visible: Sequence[str], given: str) -> tuple[str, ...]:
    """Returns a GPU for each process; () where there is none."""
    if visible and count > len(visible):
        raise ValueError(
            f"{given}, but this machine has {len(visible)} GPU{'s' * (len(visible) != 1)}, and two "
            "processes cannot share one; start fewer, or use the CPU alone "
            f"({gpus_lib.VISIBLE}= hmoe launch ...)"
        )
    return tuple(visible[:count])


def free_ports(count: int) -> list[int]:
    """Returns ports on which nothing of this machine listens.

    They are not from the range of ports that outgoing connections get, one of which could take a
    port before the process that it is meant for opens it.
    """
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for port in random.SystemRandom().sample(_PORTS, _TRIES):
            with contextlib.suppress(OSError):
                stack.enter_context(worker_checks.listening(port))
                found.append(port)
            if len(found) == count:
                return found
    raise ValueError(f"found {len(found)} free ports on this machine, and {count} are needed")
