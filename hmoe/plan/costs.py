"""The costs of a training step on one device of a mesh; all devices have the same."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from hmoe.layer.parts import DISPATCH, EXPERTS, OTHER, ROUTER
from hmoe.lowering.kinds import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, SHIFT

KINDS = (ALL_TO_ALL, ALL_REDUCE, ALL_GATHER, SHIFT)

PARTS = (EXPERTS, ROUTER, DISPATCH, OTHER)

# The largest group in which TPUs add up bfloat16 as it is; in larger ones it is cast to float32
# (Mesh TensorFlow's `SimdMeshImpl`).
TPU_BFLOAT16_GROUP = 8

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
PHASES = (FORWARD, BACKWARD, UPDATE)


class Place(NamedTuple):
    """Where in a step something is spent.

    Attributes:
      part: one of PARTS; OTHER is all that is no mixture layer, and what such a layer does beside
        routing, moving tokens and experts.
      level: name of the level, outside the experts; "" for experts and for what has no level.
      phase: one of PHASES.
    """

    part: str
    level: str
    phase: str


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Collectives of one kind, along the same mesh axes, at one place.

    Attributes:
      kind: one of KINDS.
      axes: names of the mesh axes whose devices take part.
      place: where in the step.
      size: bytes that one device sends to others. In a group of n devices it sends (n - 1) / n of
        its tensor in an all-to-all, 2 (n - 1) / n of it in an all-reduce (a ring), and n - 1 times
        its own part in an all-gather.
      count: number of collectives.
    """

    kind: str
    axes: tuple[str, ...]
    place: Place
    size: int
    count: int


@dataclasses.dataclass(frozen=True)
class StepCosts:
    """What one device does and sends in one training step.

    Attributes:
      multiplications: multiplications of einsums of two tensors or more, each followed by an
        addition, by place.
      exchanges: what it sends; each kind, axes and place once.
    """

    multiplications: Mapping[Place, int]
    exchanges: tuple[Exchange, ...]

    def multiplied(self, part: str | None = None, phase: str | None = None) -> int:
        """Returns the multiplications of a part and a phase; None for all."""
        return sum(
            number
            for place, number in self.multiplications.items()
            if part in (None, place.part) and phase in (None, place.phase)
        )

    def sent(self, where: Callable[[Exchange], bool] = lambda exchange: True) -> int:
        """Returns the bytes of the exchanges that a condition selects."""
        return sum(exchange.size for exchange in self.exchanges if where(exchange))


def merged(exchanges: Iterable[Exchange]) -> tuple[Exchange, ...]:
    """Adds up exchanges of the same kind, axes and place, in the order of their first ones."""
    found: dict[tuple[str, tuple[str, ...], Place], list[int]] = {}
    for each in exchanges:
        total = found.setdefault((each.kind, each.axes, each.place), [0, 0])
        total[0] += each.size
        total[1] += each.count
    return tuple(Exchange(*key, *total) for key, total in found.items())


def bytes_sent(kind: str, size: int, group: int) -> int:
    """Returns the bytes that one device of a group sends for a tensor.

    Args:
      kind: one of KINDS.
      size: bytes of the device's tensor, before the exchange.
      group: number of devices in the group.
    """
    # A ring passes each part on n - 1 times, and an all-reduce goes round twice.
    if kind == ALL_REDUCE:
        return 2 * size * (group - 1) // group
    if kind == ALL_TO_ALL:
        return size * (group - 1) // group
    return size * (group - 1) if kind == ALL_GATHER else size


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      parameters: the trained weights, and others that are saved.
      gradients: gradients of the trained weights.
      optimizer: the optimizer's variables.
      activations: a bound: all tensors of the forward pass that the backward pass reads, as if none
        were given back before the last is read. What a device needs for the moment comes on top.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.parameters + self.gradients + self.optimizer + self.activations


@dataclasses.dataclass(frozen=True)
class LevelPlan:
    """The sizes of one level of a mixture layer.

    Attributes:
      name: its name.
      num_experts: the experts that one router chooses among.
      choices: experts that a whole token asks for; None where experts choose tokens.
      group_size: tokens of a group.
      num_groups: groups of all tokens, of one set of sibling experts.
      capacity: slots of an expert for one group.
      asked_capacity: the slots that the capacity factor alone gives, as a fraction of a slot too.
      axis: name of the mesh axis that its experts are split over; None if they are not.
      splits: size of that axis; 1 if there is none.
      asked_group_size: tokens of a group that were asked for; None if it was not in tokens.
    """

    name: str
    num_experts: int
    choices: int | None
    group_size: int
    num_groups: int
    capacity: int
    asked_capacity: float
    axis: str | None
    splits: int
    asked_group_size: int | None = None

    @property
    def slots_per_token(self) -> float:
        """Slots of all experts of the level for each token that comes to it."""
        return self.num_experts * self.capacity / self.group_size


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """One mixture layer.

    Attributes:
      name: its name in the model, such as "decoder/block_001/layer_002".
      levels: outermost first.
      tokens: tokens of a step that the layer is called with, padding included.
      slots: slots of all experts at the end of the hierarchy.
      experts: number of experts at the end of the hierarchy.
    """

    name: str
    levels: tuple[LevelPlan, ...]
    tokens: int
    slots: int
    experts: int

    @property
    def slots_per_token(self) -> float:
        """Slots of experts for each token."""
        return self.slots / self.tokens

    @property
    def empty_share(self) -> float:
        """Share of the experts' work that is spent on empty slots at the least, from 0 to 1.

        A token of k choices at each of the levels reaches at most as many experts as choices of
        partial tokens leave: the first choice goes on with all its choices, others with one.
        """
        used = 1
        for level in self.levels:
            if level.choices is None:
                return 0.0
            used += level.choices - 1
        return max(0.0, 1 - used / self.slots_per_token)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The costs of one training step of a model, on a mesh.

    Attributes:
      mesh: size of each mesh axis.
      layout: the mesh axis of each dimension that is split.
      tokens: tokens of a step, inputs and targets, padding included.
      microbatches: number of microbatches.
      costs: what a device does and sends.
      memory: what it holds.
      parameters: trained parameters of the model.
      active_parameters: those that one token can use at most.
      layers: the mixture layers.
      remarks: what is legal but wasteful, in sentences.
      on_tpu: whether it was counted for TPUs, which send float32 as bfloat16 in an all-to-all, and
        move tokens by einsums.
    """

    mesh: Mapping[str, int]
    layout: Mapping[str, str]
    tokens: int
    microbatches: int
    costs: StepCosts
    memory: Memory
    parameters: int
    active_parameters: int
    layers: tuple[LayerPlan, ...]
    remarks: tuple[str, ...]
    on_tpu: bool

    @property
    def devices(self) -> int:
        """Devices of the mesh."""
        return math.prod(self.mesh.values())
