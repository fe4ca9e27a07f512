"""Hands recorded choices to the expert layers of a T5 while its model is built.

T5's functions know nothing of them, so the graph that has them opens a collection here, and each
layer takes its own by its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import NamedTuple

from hmoe.analysis.traces import LayerInfo
from hmoe.compat.stack import mtf
from hmoe.layer.moe import HierarchicalMoE
from hmoe.layer.replay import vector_dim


class ReplayedLayer(NamedTuple):
    """The choices of one layer about a batch.

    Attributes:
      info: the layer, as it was traced.
      vectors: float32 [*batch_dims, length, V], see `hmoe.layer.replay`.
    """

    info: LayerInfo
    vectors: mtf.Tensor


@dataclasses.dataclass(frozen=True)
class _Replayed:
    """The choices of a model, by layer, and the layers that took theirs."""

    layers: Mapping[str, ReplayedLayer]
    taken: set[str] = dataclasses.field(default_factory=set)


_replayed: ContextVar[_Replayed | None] = ContextVar("replayed", default=None)


@contextlib.contextmanager
def replaying(layers: Sequence[ReplayedLayer]) -> Iterator[None]:
    """Lets the expert layers that are built inside take these choices in place of their own.

    Args:
      layers: the choices; where there are none, layers choose for themselves.

    Raises:
      ValueError: there are choices of a layer that the model does not have.
    """
    replayed = _Replayed({each.info.name: each for each in layers})
    token = _replayed.set(replayed)
    try:
        yield
    finally:
        _replayed.reset(token)
    unknown = [name for name in replayed.layers if name not in replayed.taken]
    if unknown:
        raise ValueError(
            f"--replay: the trace has choices of {unknown[0]}, but the model has no layer of"
            " experts of that name; replay a trace of a model with the same layers"
        )


def of_layer(name: str, moe: HierarchicalMoE, x: mtf.Tensor) -> mtf.Tensor | None:
    """Returns the choices that a layer is to replay.

    Args:
      name: the name of the layer.
      moe: its mixture.
      x: its inputs [*batch_dims, length, M].

    Returns:
      float32 [*batch_dims, length, V]; None if it chooses for itself.

    Raises:
      ValueError: the trace has no choices of this layer, or another number of experts or choices.
    """
    replayed = _replayed.get()
    if replayed is None or not replayed.layers:
        return None
    if name not in replayed.layers:
        raise ValueError(
            f"--replay: the trace has no choices of {name}, only of {', '.join(replayed.layers)};"
            " replay a trace of a model with the same layers"
        )
    info, vectors = replayed.layers[name]
    traced = [(each.num_experts, each.num_choices) for each in info.levels]
    own = [(each.num_experts, each.router.num_choices(each.num_experts)) for each in moe.levels]
    if traced != own:
        raise ValueError(
            f"--replay: in the trace, {name} has {_shown(traced)}, but the model's has"
            f" {_shown(own)}; replay a trace of a model with the same levels"
        )
    replayed.taken.add(name)
    # A decoder calls the length of the encoder's tokens memory_length.
    dims = [*x.shape.dims[:-1], vector_dim(vectors.shape.dims[-1].size)]
    return mtf.reshape(vectors, mtf.Shape(dims))


def _shown(levels: Sequence[tuple[int, int]]) -> str:
    """Returns the levels in words, outermost first."""
    return ", then ".join(
        f"{experts} experts with {choices} choice{'' if choices == 1 else 's'} a token"
        for experts, choices in levels
    )
