"""The processes of a run: where each is reached, and which of them this one is."""

from __future__ import annotations

import dataclasses

# Seconds without an answer after which a process counts as lost.
LOST_AFTER = 30.0
# Seconds that the processes wait for one another at the start.
START_WITHIN = 300.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes that share the mesh of a run, each with one slice of it.

    Attributes:
      addresses: "host:port" of each process, by its number.
      index: the number of this process.
      trust_network: whether addresses may be reached from other machines.
      lost_after: seconds without an answer after which a process counts as lost.
      start_within: seconds that the processes wait for one another at the start.
    """

    addresses: tuple[str, ...]
    index: int
    trust_network: bool = False
    lost_after: float = LOST_AFTER
    start_within: float = START_WITHIN

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints, and writes what is written once."""
        return self.index == 0
