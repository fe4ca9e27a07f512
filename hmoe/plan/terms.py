"""The terms that the costs of a layer are sums of: products of a few sizes.

A term is an einsum, of which a device multiplies its part of all dimensions; a sum over devices of
what einsums leave; or a change of layout, an all-to-all along one mesh axis where all is well.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from hmoe.plan.costs import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    TPU_BFLOAT16_GROUP,
    Exchange,
    Place,
    StepCosts,
    bytes_sent,
    merged,
)
from hmoe.plan.layer_sizes import Dim, Dims

# Routing, losses and metrics are float32.
FLOAT32 = 4
# TPUs send float32 as bfloat16 in an all-to-all.
_BFLOAT16 = 2


@dataclasses.dataclass(frozen=True)
class Term:
    """A product of sizes that a device multiplies or sends.

    Attributes:
      place: where in the step.
      what: what is computed or sent, in a few words.
      dims: the dimensions of which a device has its part.
      count: how often that is done in a step.
      kind: kind of the exchange; None for multiplications.
      axes: mesh axes of the exchange.
      group: devices that exchange with one another.
      element: bytes of an element that is sent.
      copies: parts that a device puts in, itself one; more than 1 only where TPUs gather by sums.
    """

    place: Place
    what: str
    dims: Dims
    count: int = 1
    kind: str | None = None
    axes: tuple[str, ...] = ()
    group: int = 1
    element: int = 1
    copies: int = 1

    @property
    def tensor(self) -> int:
        """Elements, or bytes of an exchange, of one device's tensor."""
        return math.prod(dim.local for dim in self.dims) * self.element * self.copies

    @property
    def total(self) -> int:
        """Multiplications of one device, or bytes that it sends."""
        if self.kind is None:
            return self.count * self.tensor
        return self.count * bytes_sent(self.kind, self.tensor, self.group)


class Terms:
    """Collects the terms of a layer.

    Args:
      mesh: size of each mesh axis, in order.
      on_tpu: whether the mesh is of TPU cores.
      num_microbatches: how often each term is done in a step.
    """

    def __init__(self, mesh: Mapping[str, int], on_tpu: bool, num_microbatches: int):
        self._mesh = mesh
        self._on_tpu = on_tpu
        self._times = num_microbatches
        self._counts: collections.Counter[Term] = collections.Counter()

    @property
    def all(self) -> list[Term]:
        """The terms; equal ones are one."""
        return [
            dataclasses.replace(term, count=count) for term, count in self._counts.items() if count
        ]

    def multiply(self, place: Place, what: str, dims: Iterable[Dim], count: int = 1) -> None:
        """Adds products of two tensors or more with these dimensions in all.

        Args:
          place: where in the step.
          what: what is multiplied.
          dims: the dimensions.
          count: how many such products there are in a microbatch.
        """
        self._counts[Term(place, what, self._checked(dims))] += count * self._times

    def einsum(
        self,
        place: Place,
        what: str,
        dims: Iterable[Dim],
        result: Iterable[Dim],
        element: int = FLOAT32,
        *,
        once: bool = False,
    ) -> None:
        """Adds a product, and the sum over devices of its result; see `multiply` and `add_up`."""
        dims = tuple(dims)
        self.multiply(place, what, dims)
        self.add_up(place, what, dims, result, element, once=once)

    def add_up(
        self,
        place: Place,
        what: str,
        dims: Iterable[Dim],
        result: Iterable[Dim],
        element: int = FLOAT32,
        *,
        once: bool = False,
    ) -> None:
        """Adds the sum over devices of a tensor that has lost dimensions.

        Args:
          place: where in the step.
          what: what is summed.
          dims: the dimensions before; sums along split ones go over devices.
          result: the dimensions that are left.
          element: bytes of an element.
          once: whether microbatches are added up first, so that it is done once a step.
        """
        result = tuple(result)
        lost = {dim.axis for dim in dims if dim not in result and dim.splits > 1}
        axes = tuple(axis for axis in self._mesh if axis in lost)
        if axes:
            group = math.prod(self._mesh[axis] for axis in axes)
            element = self._summed(element, group)
            term = Term(place, what, self._checked(result), 1, ALL_REDUCE, axes, group, element)
            self._counts[term] += 1 if once else self._times

    def relayout(
        self, place: Place, what: str, old: Sequence[Dim], new: Sequence[Dim], element: int
    ) -> None:
        """Adds what a tensor sends when other dimensions of it become split.

        Args:
          place: where in the step.
          what: what is sent.
          old: the dimensions as they are split before.
          new: the same dimensions, in the same order, as they are split afterwards.
          element: bytes of an element.
        """
        old, new = self._checked(old), self._checked(new)
        before, after = _split_at(old), _split_at(new)
        now = list(old)
        for axis, at in after.items():
            if axis not in before:  # cut, which sends nothing, before anything is sent
                now[at] = new[at]
        for axis in self._mesh:
            if axis in before and axis in after and before[axis] != after[axis]:
                self._send(place, what, now, axis, ALL_TO_ALL, element)
                now[before[axis]], now[after[axis]] = new[before[axis]], new[after[axis]]
        for axis in self._mesh:
            if axis in before and axis not in after:
                self._send(place, what, now, axis, ALL_GATHER, element)
                now[before[axis]] = now[before[axis]].whole()

    def _send(
        self, place: Place, what: str, dims: Sequence[Dim], axis: str, kind: str, element: int
    ) -> None:
        group, copies = self._mesh[axis], 1
        if self._on_tpu and kind == ALL_TO_ALL:
            element = _BFLOAT16
        if self._on_tpu and kind == ALL_GATHER:
            # The sum of all parts, each among zeros.
            kind, copies, element = ALL_REDUCE, group, self._summed(element, group)
        term = Term(place, what, tuple(dims), 1, kind, (axis,), group, element, copies)
        self._counts[term] += self._times

    def _summed(self, element: int, group: int) -> int:
        """Returns the bytes in which a sum is sent."""
        return FLOAT32 if self._on_tpu and group > TPU_BFLOAT16_GROUP else element

    @staticmethod
    def _checked(dims: Iterable[Dim]) -> Dims:
        """Returns the dimensions, each once.

        Raises:
          ValueError: two of them are split over one mesh axis.
        """
        found = tuple(dict.fromkeys(dims))
        axes = [dim.axis for dim in found if dim.axis is not None]
        for axis in axes:
            if axes.count(axis) > 1:
                both = " and ".join(dim.symbol for dim in found if dim.axis == axis)
                raise ValueError(
                    f"layout: mesh axis '{axis}' would split both {both} of one tensor, and can"
                    " split only one of them; give them different axes"
                )
        return found


def _split_at(dims: Sequence[Dim]) -> dict[str, int]:
    """Returns which dimension each mesh axis splits."""
    return {dim.axis: at for at, dim in enumerate(dims) if dim.axis and dim.splits > 1}


def costs_of(terms: Iterable[Term]) -> StepCosts:
    """Adds up terms by place."""
    multiplications: collections.Counter[Place] = collections.Counter()
    exchanges = []
    for term in terms:
        if term.kind is None:
            multiplications[term.place] += term.total
        else:
            exchanges.append(Exchange(term.kind, term.axes, term.place, term.total, term.count))
    return StepCosts(dict(multiplications), merged(exchanges))
