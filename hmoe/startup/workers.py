"""The processes of a run: where each is reached, and which of them this one is."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping

from hmoe.startup import addresses as addresses_lib
from hmoe.startup import tf_config

# Seconds without an answer after which a process counts as lost.
LOST_AFTER = 30.0
# Seconds that the processes wait for one another at the start.
START_WITHIN = 300.0

FLAG = "--workers"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes that share the mesh of a run, each with one slice of it.

    Attributes:
      addresses: "host:port" of each process, by its number.
      index: the number of this process.
      trust_network: whether addresses may be reached from other machines.
      lost_after: seconds without an answer after which a process counts as lost.
      start_within: seconds that the processes wait for one another at the start.
      given_by: what named the addresses, for messages.
    """

    addresses: tuple[str, ...]
    index: int
    trust_network: bool = False
    lost_after: float = LOST_AFTER
    start_within: float = START_WITHIN
    given_by: str = FLAG

    def __post_init__(self) -> None:
        self._check_addresses()
        if not 0 <= self.index < len(self.addresses):
            raise ValueError(
                f"--worker_index is {self.index}, but {self.given_by} has {self.count}; processes "
                f"are numbered from 0 to {len(self.addresses) - 1}"
            )

    def _check_addresses(self) -> None:
        seen: dict[addresses_lib.Address, int] = {}
        for number, text in enumerate(self.addresses):
            try:
                address = addresses_lib.parse(text)
            except ValueError as error:
                raise ValueError(f"{self.given_by} has {text!r}, {error}") from None
            if address in seen:
                raise ValueError(
                    f"{self.given_by} has {text!r} twice, for processes {seen[address]} and "
                    f"{number}; each needs an address of its own"
                )
            seen[address] = number

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints, and writes what is written once."""
        return self.index == 0

    @property
    def own(self) -> addresses_lib.Address:
        """The address of this process."""
        return addresses_lib.parse(self.addresses[self.index])

    @property
    def count(self) -> str:
        """The number of processes, for messages."""
        number = len(self.addresses)
        return "1 address" if number == 1 else f"{number} addresses"


def from_flags(flags: argparse.Namespace, environ: Mapping[str, str]) -> Workers | None:
    """Returns the processes that flags, or else TF_CONFIG, name.

    Args:
      flags: parsed flags of a command; those of a command of one process have no `workers`.
      environ: the environment.

    Returns:
      The processes; None for a run of this process alone.

    Raises:
      ValueError: an address, the number of this process, or TF_CONFIG is wrong.
    """
    if not hasattr(flags, "workers"):
        return None
    given_by, read = FLAG, (tuple(flags.workers or ()), flags.worker_index)
    if flags.workers is None:
        in_environment = tf_config.read(environ.get(tf_config.NAME, ""))
        if in_environment is None:
            return None
        given_by, read = tf_config.NAME, in_environment
    found = _workers(flags, *read, given_by)
    return found if len(found.addresses) > 1 else None


def _workers(
    flags: argparse.Namespace, addresses: tuple[str, ...], index: int, given_by: str
) -> Workers:
    if "" in addresses:
        raise ValueError(f"{given_by} is empty; give it a value, or leave it out")
    return Workers(
        addresses=addresses,
        index=index,
        trust_network=flags.trust_network,
        lost_after=LOST_AFTER if flags.lost_after is None else flags.lost_after,
        start_within=START_WITHIN if flags.start_within is None else flags.start_within,
        given_by=given_by,
    )


def notice(workers: Workers) -> str:
    """Returns the line about the server that a process of a run starts."""
    return (
        f"Process {workers.index} of {len(workers.addresses)}: TensorFlow's server listens on port "
        f"{workers.own.port} of all interfaces of this machine, without authentication, and runs "
        "any graph that it is sent (docs/security.md)"
    )
