"""Operations of Mesh TensorFlow that move tokens; the engine of the mesh says how.

Each is local to a device: what is split over the mesh stays where it is. Their inputs
and outputs are the only state, so that graphs that are copied (microbatches) work.

Dimensions: G are those of groups, S tokens of a group, K choices, X experts, C slots, T
all that trails.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

from hmoe.compat.stack import mtf, tf
from hmoe.dispatch import by_einsum, by_index
from hmoe.dispatch.slot_sizes import Sizes
from hmoe.mesh.local_ops import Local

ENGINES = ("auto", "index", "einsum")


def engine_of(mesh_impl: Any, asked: str) -> ModuleType:
    """The engine for a mesh.

    Args:
      mesh_impl: what the graph is lowered for.
      asked: "index", "einsum", or "auto": einsum on TPUs, whose matrix units multiply
        sooner than memory gathers; index on processors and GPUs.
    """
    if asked == "auto":
        asked = "einsum" if isinstance(mesh_impl, mtf.simd_mesh_impl.SimdMeshImpl) else "index"
    return {"index": by_index, "einsum": by_einsum}[asked]


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the choices of a level stand, in the numbers of an engine.

    Attributes:
      slots: int32 [*G, S, K], the slot of each choice, or -1.
      sources: int32 [X, *G, C], the choice in each slot, or -1.
      in_order: whether choice j is always of expert j.
      engine: one of `ENGINES`.
    """

    slots: mtf.Tensor
    sources: mtf.Tensor
    in_order: bool
    engine: str

    @property
    def sizes(self) -> Sizes:
        """X and C."""
        dims = self.sources.shape.dims
        return Sizes(dims[0].size, dims[-1].size, self.in_order)

    @property
    def tensors(self) -> list[mtf.Tensor]:
        """What operations take as inputs."""
        return [self.slots, self.sources]

    def of(self, slots: mtf.Tensor, sources: mtf.Tensor) -> Places:
        """The same places in other tensors: those of an operation that was copied."""
        return dataclasses.replace(self, slots=slots, sources=sources)


def places(
    expert: mtf.Tensor,
    position: mtf.Tensor,
    slot_dims: list[mtf.Dimension],
    *,
    in_order: bool,
    engine: str,
) -> Places:
    """The places of choices.

    Args:
      expert: int32 [*G, S, K].
      position: int32 [*G, S, K], or -1.
      slot_dims: [X, C].
      in_order: whether choice j is always of expert j.
      engine: one of `ENGINES`.
    """
    slots, sources = _FindPlaces(expert, position, slot_dims, in_order, engine).outputs
    return Places(slots, sources, in_order, engine)


def to_slots(tokens: mtf.Tensor, to: Places) -> mtf.Tensor:
    """[*G, S, *T] -> [X, *G, C, *T]: the token that stands in each slot; 0 in empty ones."""
    return _ToSlots(tokens, to).outputs[0]


def to_tokens(buffers: mtf.Tensor, of: Places, weights: mtf.Tensor | None = None) -> mtf.Tensor:
    """[X, *G, C, *T] -> [*G, S, *T]: the sum over the slots of each token.

    `weights` [*G, S, K], in the type of the buffers, are those of choices, 0 where one has no
    slot; None: 1 where it has one, and no gradient.
    """
    return _ToTokens(buffers, of, weights).outputs[0]


def choices_to_slots(values: list[mtf.Tensor], to: Places, fields: mtf.Dimension) -> mtf.Tensor:
    """F of [*G, S, K] -> [X, *G, C, F]: of the choice in each slot, else 0. No gradient."""
    return _ChoicesToSlots(values, to, fields).outputs[0]


class _Local(mtf.Operation):
    """An operation that each device does for itself."""

    def __init__(
        self,
        inputs: list[mtf.Tensor],
        outputs: list[tuple[mtf.Shape, tf.DType]],
        engine: str,
        sizes: Sizes,
        whole: list[mtf.Dimension],
        name: str,
    ):
        """`whole` are the dimensions that may not be split."""
        super().__init__(inputs, name=name)
        self._engine = engine
        self._sizes = sizes
        self._outputs = [mtf.Tensor(self, shape, dtype) for shape, dtype in outputs]
        self._splittable_dims, self._unsplittable_dims = (
            self._initialize_splittable_and_unsplittable_dims(
                "splittable", [dim.name for dim in whole]
            )
        )

    def lower(self, lowering: mtf.Lowering) -> None:
        """Calls `compute` on each device."""
        mesh_impl = lowering.mesh_impl(self)
        for tensor in self.inputs + self.outputs:
            for dim in tensor.shape.dims:
                if (
                    dim.name in self._unsplittable_dims
                    and mesh_impl.tensor_dimension_to_mesh_axis(dim) is not None
                ):
                    raise ValueError(
                        f"{self.name}: {dim} must not be split over the mesh, but the layout"
                        " does; remove its rule"
                    )
        engine = engine_of(mesh_impl, self._engine)
        values = mesh_impl.slicewise(
            Local(self.compute, (engine, self._sizes)),
            *[lowering.tensors[each] for each in self.inputs],
        )
        values = values if len(self.outputs) > 1 else (values,)
        for output, value in zip(self.outputs, values):
            lowering.set_tensor_lowering(output, self.summed(lowering, value, output))

    def summed(self, lowering: mtf.Lowering, value: Any, output: mtf.Tensor) -> Any:
        """What is added up over devices, where an operation needs that."""
        del lowering, output
        return value

    @staticmethod
    def compute(engine: Any, sizes: Sizes, *slices: tf.Tensor) -> Any:
        """The outputs on one device, of its inputs."""
        raise NotImplementedError


class _FindPlaces(_Local):
    """Outputs `Places.slots` and `Places.sources`."""

    def __init__(
        self,
        expert: mtf.Tensor,
        position: mtf.Tensor,
        slot_dims: list[mtf.Dimension],
        in_order: bool,
        engine: str,
    ):
        groups = expert.shape.dims[:-2]
        experts, capacity = slot_dims
        super().__init__(
            [expert, position],
            [(expert.shape, tf.int32), (mtf.Shape([experts, *groups, capacity]), tf.int32)],
            engine,
            Sizes(experts.size, capacity.size, in_order),
            [*expert.shape.dims[-2:], *slot_dims],
            "places",
        )

    @staticmethod
    def compute(engine: Any, sizes: Sizes, *slices: tf.Tensor) -> Any:
        return engine.places(*slices, sizes)


class _Move(_Local):
    """What moves between tokens and slots."""

    def __init__(
        self,
        inputs: list[mtf.Tensor],
        places: Places,
        outputs: list[tuple[mtf.Shape, tf.DType]],
        name: str,
    ):
        """`inputs` come before the tensors of places."""
        self._places = places
        dims = places.slots.shape.dims[-2:] + [
            places.sources.shape.dims[0],
            places.sources.shape.dims[-1],
        ]
        super().__init__(
            [*inputs, *places.tensors], outputs, places.engine, places.sizes, dims, name
        )

    @property
    def places(self) -> Places:
        """Of the inputs as they are now."""
        return self._places.of(*self.inputs[-2:])

    def lower(self, lowering: mtf.Lowering) -> None:
        """Also counts the multiplications of einsums, as Mesh TensorFlow does."""
        super().lower(lowering)
        mesh_impl = lowering.mesh_impl(self)
        if engine_of(mesh_impl, self._engine) is by_einsum:
            dims = {dim for tensor in [*self.inputs, *self.outputs] for dim in tensor.shape.dims}
            shape = mtf.Shape([*dims - {self._places.slots.shape.dims[-1]}])
            lowering.add_counter("einsum", mesh_impl.laid_out_size(shape))
            lowering.add_counter("einsum_unique", shape.size)


class _ToSlots(_Move):
    """See `to_slots`."""

    def __init__(self, tokens: mtf.Tensor, to: Places):
        trailing = tokens.shape.dims[len(to.slots.shape) - 1 :]
        super().__init__([tokens], to, [(to.sources.shape + trailing, tokens.dtype)], "to_slots")

    @staticmethod
    def compute(engine: Any, sizes: Sizes, *slices: tf.Tensor) -> Any:
        return engine.to_slots(*slices, sizes)

    def gradient(self, grad_ys: list[mtf.Tensor]) -> list[mtf.Tensor | None]:
        return [to_tokens(grad_ys[0], self.places), None, None]


class _ToTokens(_Move):
    """See `to_tokens`."""

    def __init__(self, buffers: mtf.Tensor, of: Places, weights: mtf.Tensor | None):
        trailing = buffers.shape.dims[len(of.sources.shape) :]
        shape = mtf.Shape(of.slots.shape.dims[:-1] + trailing)
        self._is_weighted = weights is not None
        super().__init__(
            [buffers, weights] if self._is_weighted else [buffers],
            of,
            [(shape, buffers.dtype)],
            "to_tokens",
        )

    @staticmethod
    def compute(engine: Any, sizes: Sizes, *slices: tf.Tensor) -> Any:
        buffers, *weights, slots, sources = slices
        return engine.to_tokens(buffers, slots, sources, sizes, *weights)

    def gradient(self, grad_ys: list[mtf.Tensor]) -> list[mtf.Tensor | None]:
        if not self._is_weighted:
            return [to_slots(grad_ys[0], self.places), None, None]
        buffers, weights = self.inputs[:2]
        gradient = _ToTokensGradient(grad_ys[0], buffers, weights, self.places)
        return [*gradient.outputs, None, None]


class _ToTokensGradient(_Move):
    """Gradients of the buffers and of the weights of `to_tokens`."""

    has_gradient = False

    def __init__(self, tokens: mtf.Tensor, buffers: mtf.Tensor, weights: mtf.Tensor, of: Places):
        self._trailing = buffers.shape.dims[len(of.sources.shape) :]
        super().__init__(
            [tokens, buffers, weights],
            of,
            [(buffers.shape, buffers.dtype), (weights.shape, weights.dtype)],
            "to_slots_weighted",
        )

    @staticmethod
    def compute(engine: Any, sizes: Sizes, *slices: tf.Tensor) -> Any:
        tokens, buffers, weights, slots, sources = slices
        return engine.to_slots_weighted(tokens, buffers, slots, sources, sizes, weights)

    def summed(self, lowering: mtf.Lowering, value: Any, output: mtf.Tensor) -> Any:
        """The weights' gradient sums over the depth, which may be split."""
        mesh_impl = lowering.mesh_impl(self)
        axes = [mesh_impl.tensor_dimension_to_mesh_axis(dim) for dim in self._trailing]
        axes = [axis for axis in axes if axis is not None]
        if output is self.outputs[0] or not axes:
            return value

        def add_counter() -> None:
            lowering.add_counter(
                f"allreduce/{axes}/to_tokens", mesh_impl.laid_out_size(output.shape)
            )

        return mtf.LazyAllreduceSum(mesh_impl, value, axes, add_counter_fn=add_counter)


class _ChoicesToSlots(_Move):
    """See `choices_to_slots`."""

    has_gradient = False

    def __init__(self, values: list[mtf.Tensor], to: Places, fields: mtf.Dimension):
        super().__init__(
            values, to, [(to.sources.shape + [fields], values[0].dtype)], "choices_to_slots"
        )

    @staticmethod
    def compute(engine: Any, sizes: Sizes, *slices: tf.Tensor) -> Any:
        return engine.choices_to_slots(list(slices[:-2]), *slices[-2:], sizes)
