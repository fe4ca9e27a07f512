"""Collects the auxiliary outputs of a T5's layers while its model is built.

T5's functions return a loss and nothing else, so layers record their sums here, and the graph that
opened the collection picks them up.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from hmoe.compat.stack import mtf
from hmoe.layer.level_shape import LevelShape
from hmoe.layer.moe import HierarchicalMoE
from hmoe.layer.recursion import RoutedLevel
from hmoe.routing.balancing import BiasUpdate


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """A mixture, and the sizes that one call of it had.

    Attributes:
      moe: the mixture.
      routed: its levels after routing, outermost first.
      input_size: depth of the tokens.
      output_size: depth of each output.
      of_encoder: whether a decoder's layer was given the encoder's tokens.
    """

    moe: HierarchicalMoE
    routed: Sequence[RoutedLevel]
    input_size: int
    output_size: int
    of_encoder: bool = False

    @property
    def shapes(self) -> list[LevelShape]:
        """Sizes and dimensions of its levels, outermost first."""
        return [each.shape for each in self.routed]


@dataclasses.dataclass(frozen=True)
class Record:
    """The auxiliary outputs of one call of one layer.

    Attributes:
      name: the name of the layer, such as "encoder/block_000/layer_001".
      sums: metric sums, see `hmoe.layer.metric_sums`.
      loss: float32 [], what the layer adds to the loss.
      bias_updates: biases to move after the step.
      call: the mixture and its sizes; None for a layer of a user's own that does not give them.
    """

    name: str
    sums: dict[str, mtf.Tensor]
    loss: mtf.Tensor
    bias_updates: Sequence[BiasUpdate] = ()
    call: LayerCall | None = None


_records: ContextVar[list[Record] | None] = ContextVar("records", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[list[Record]]:
    """Yields a list to which every hmoe layer that is built inside adds its record."""
    records: list[Record] = []
    token = _records.set(records)
    try:
        yield records
    finally:
        _records.reset(token)


def record(
    name: str,
    sums: dict[str, mtf.Tensor],
    loss: mtf.Tensor,
    bias_updates: Sequence[BiasUpdate] = (),
    call: LayerCall | None = None,
) -> None:
    """Adds a record to the innermost open collection; without one it is dropped.

    Raises:
      ValueError: there are biases to move and no collection that would move them.
    """
    records = _records.get()
    if records is not None:
        records.append(Record(name, sums, loss, bias_updates, call))
    elif bias_updates:
        raise ValueError(
            f"layer {name}: its routers have bias_update_rate = {bias_updates[0].rate:g}, but"
            " only `hmoe train` moves biases, not T5's own command; train with it, or hold them"
            " where they are with bias_update_rate = 0"
        )
