"""What crosses hosts: for a layer by arithmetic, and for a graph by its lowering's counters.

A layer has `hosts` x `inside` processes, numbered host by host. A flat mixture exchanges tokens
among all of them; the outer level of two exchanges them among the processes that have the same
place on their hosts, and the inner level inside each host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# Tokens go out and come back, in the forward pass and in the backward pass.
EXCHANGES = 4
_FLOAT = 4


class Level(NamedTuple):
    """A level of a layer.

    Attributes:
      k: experts of a token.
      factor: slots for each token that arrives.
    """

    k: int
    factor: float


class Crossing(NamedTuple):
    """What one process sends to other hosts in a step.

    Attributes:
      messages: number of messages of tokens.
      size: bytes in them.
    """

    messages: int
    size: float


def crossing(
    hosts: int, inside: int, levels: Sequence[Level], tokens: int, d_model: int
) -> Crossing:
    """Returns what a process of a layer sends to other hosts, by the layer's sizes alone.

    Slots travel whether they are filled or not, so that bytes follow from the slots of the first
    level. Of these each host gets an equal share, at either kind of mixture: what differs is in how
    many messages the share is sent, and how many slots the level has.

    Args:
      hosts: number of hosts.
      inside: processes on each.
      levels: one level of a flat mixture, or two.
      tokens: tokens of the process.
      d_model: their depth, in float32.
    """
    slots = tokens * levels[0].factor
    peers = (hosts - 1) * (inside if len(levels) == 1 else 1)
    size = EXCHANGES * slots * d_model * _FLOAT * (hosts - 1) / hosts
    return Crossing(EXCHANGES * peers, size)


def share(kind: str, axes: Sequence[str], hosts: int, inside: int) -> float:
    """Returns which share of the bytes that a process sends in a collective crosses hosts.

    Args:
      kind: kind of the collective.
      axes: the mesh axes along which it runs: "all", or "cols" over hosts and "rows" inside.
      hosts: number of hosts.
      inside: processes on each.
    """
    if tuple(axes) == ("rows",) or hosts == 1:
        return 0.0
    if tuple(axes) == ("cols",):
        return 1.0
    if kind == "all-to-all":
        return (hosts - 1) * inside / (hosts * inside - 1)
    # A ring in the order of the processes leaves a host once for every turn through its processes.
    return 1 / inside


def counted_crossing(traffic: Sequence[Sequence], hosts: int, inside: int) -> float:
    """Returns the bytes that a process sends to other hosts, by the counters of its graph.

    Args:
      traffic: `lowering.exchanges.Traffic` of a process: kind, axes, collectives, tensors, bytes.
      hosts: number of hosts.
      inside: processes on each.
    """
    return sum(size * share(kind, axes, hosts, inside) for kind, axes, _, _, size in traffic)
