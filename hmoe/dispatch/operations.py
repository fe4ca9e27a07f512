"""Mesh TensorFlow operations that move tokens, each in the way that suits the mesh.

Each operation is local to a device: what is split over the mesh stays where it is. Their inputs and
outputs are their only state, so that graphs that are copied (for microbatches) work.

Dimensions: G stands for those of groups, S tokens of a group, K choices, X experts, C slots, T
everything that trails.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Union

from hmoe.compat.stack import mtf, tf
from hmoe.dispatch import by_einsum, by_index
from hmoe.dispatch.slot_sizes import SlotSizes

ENGINES = ("auto", "index", "einsum")

# One tensor of a device, or one for each output.
_Outputs = Union[tf.Tensor, tuple[tf.Tensor, ...]]  # noqa: UP007 (a wrapped class knows no |)


def engine_for(mesh_impl: mtf.MeshImpl, asked: str) -> ModuleType:
    """Returns the module that moves tokens on a mesh.

    An engine has the functions `slot_index`, `to_slots`, `to_tokens`, `to_slots_weighted` and
    `choices_to_slots`, on TensorFlow's tensors of one device. All engines compute the same.

    Args:
      mesh_impl: the mesh that the graph is lowered to.
      asked: "index", "einsum", or "auto": einsum on TPUs, whose matrix units multiply faster than
        memory gathers; index on processors and GPUs.
    """
    if asked == "auto":
        asked = "einsum" if _is_of_tpus(mesh_impl) else "index"
    return {"index": by_index, "einsum": by_einsum}[asked]


def _is_of_tpus(mesh_impl: mtf.MeshImpl) -> bool:
    # A mesh that only counts what TPUs would do has the attribute.
    return getattr(mesh_impl, "is_of_tpus", isinstance(mesh_impl, mtf.simd_mesh_impl.SimdMeshImpl))


@dataclasses.dataclass(frozen=True)
class SlotIndex:
    """Which slot holds which choice, in the numbering of an engine.

    Attributes:
      slots: int32 [*G, S, K], the slot of each choice, or -1.
      sources: int32 [X, *G, C], the choice in each slot, or -1; zeros with the einsum engine.
      in_order: whether choice j is always expert j.
      engine: one of `ENGINES`.
    """

    slots: mtf.Tensor
    sources: mtf.Tensor
    in_order: bool
    engine: str

    @property
    def sizes(self) -> SlotSizes:
        """X and C."""
        dims = self.sources.shape.dims
        return SlotSizes(dims[0].size, dims[-1].size, self.in_order)

    @property
    def tensors(self) -> list[mtf.Tensor]:
        """The tensors, as inputs of operations."""
        return [self.slots, self.sources]

    def with_tensors(self, slots: mtf.Tensor, sources: mtf.Tensor) -> SlotIndex:
        """Returns the same index in other tensors: those of an operation that was copied."""
        return dataclasses.replace(self, slots=slots, sources=sources)


def slot_index(
    expert: mtf.Tensor,
    position: mtf.Tensor,
    slot_dims: list[mtf.Dimension],
    *,
    in_order: bool,
    engine: str,
) -> SlotIndex:
    """Indexes the slots of choices.

    Args:
      expert: int32 [*G, S, K].
      position: int32 [*G, S, K], or -1.
      slot_dims: [X, C].
      in_order: whether choice j is always expert j.
      engine: one of `ENGINES`.
    """
    slots, sources = _IndexSlots(expert, position, slot_dims, in_order, engine).outputs
    return SlotIndex(slots, sources, in_order, engine)


def to_slots(tokens: mtf.Tensor, index: SlotIndex) -> mtf.Tensor:
    """Moves tokens [*G, S, *T] into slots [X, *G, C, *T]; empty slots get 0."""
    return _ToSlots(tokens, index).outputs[0]


def to_tokens(
    buffers: mtf.Tensor, index: SlotIndex, weights: mtf.Tensor | None = None
) -> mtf.Tensor:
    """Sums the slots [X, *G, C, *T] of each token, to [*G, S, *T].

    Args:
      buffers: [X, *G, C, *T].
      index: the slot of each choice.
      weights: [*G, S, K], the weights of choices in the type of the buffers, 0 where a choice has
        no slot. None: 1 where it has one, and no gradient.
    """
    return _ToTokens(buffers, index, weights).outputs[0]


def choices_to_slots(
    values: list[mtf.Tensor], index: SlotIndex, fields: mtf.Dimension
) -> mtf.Tensor:
    """Moves F values of choices [*G, S, K] into slots [X, *G, C, F], without a gradient.

    Empty slots get 0.
    """
    return _ChoicesToSlots(values, index, fields).outputs[0]


class LocalOperation(mtf.Operation):
    """An operation that each device does by itself."""

    def __init__(
        self,
        inputs: list[mtf.Tensor],
        outputs: list[tuple[mtf.Shape, tf.DType]],
        engine: str,
        sizes: SlotSizes,
        whole: list[mtf.Dimension],
        name: str,
    ):
        """Adds the operation; `whole` lists the dimensions that may not be split."""
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
        # The function does not capture `self`, so that a mesh recognizes it in another operation.
        compute, engine, sizes = self.compute, engine_for(mesh_impl, self._engine), self._sizes
        values = mesh_impl.slicewise(
            lambda *slices: compute(engine, sizes, *slices),
            *[lowering.tensors[each] for each in self.inputs],
        )
        values = values if len(self.outputs) > 1 else (values,)
        for output, value in zip(self.outputs, values):
            lowering.set_tensor_lowering(output, self.summed(lowering, value, output))

    def summed(
        self, lowering: mtf.Lowering, value: mtf.LazyAllreduceSum, output: mtf.Tensor
    ) -> mtf.LazyAllreduceSum:
        """Returns an output, summed over devices where an operation needs that."""
        del lowering, output
        return value

    @staticmethod
    def compute(engine: ModuleType, sizes: SlotSizes, *slices: tf.Tensor) -> _Outputs:
        """Returns the outputs on one device for its inputs."""
        raise NotImplementedError


class _IndexSlots(LocalOperation):
    """Outputs `SlotIndex.slots` and `SlotIndex.sources`."""

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
            SlotSizes(experts.size, capacity.size, in_order),
            [*expert.shape.dims[-2:], *slot_dims],
            "slot_index",
        )

    @staticmethod
    def compute(engine: ModuleType, sizes: SlotSizes, *slices: tf.Tensor) -> _Outputs:
        return engine.slot_index(*slices, sizes)


class _Move(LocalOperation):
    """An operation that moves values between tokens and slots."""

    def __init__(
        self,
        inputs: list[mtf.Tensor],
        index: SlotIndex,
        outputs: list[tuple[mtf.Shape, tf.DType]],
        name: str,
    ):
        """Adds the operation; its inputs are `inputs` and the tensors of the index."""
        self._index = index
        dims = index.slots.shape.dims[-2:] + [
            index.sources.shape.dims[0],
            index.sources.shape.dims[-1],
        ]
        super().__init__([*inputs, *index.tensors], outputs, index.engine, index.sizes, dims, name)

    @property
    def index(self) -> SlotIndex:
        """The index, in the inputs as they are now."""
        return self._index.with_tensors(*self.inputs[-2:])

    def lower(self, lowering: mtf.Lowering) -> None:
        """Also counts the multiplications of einsums, as Mesh TensorFlow does."""
        super().lower(lowering)
        mesh_impl = lowering.mesh_impl(self)
        if engine_for(mesh_impl, self._engine) is by_einsum:
            dims = {dim for tensor in [*self.inputs, *self.outputs] for dim in tensor.shape.dims}
            shape = mtf.Shape([*dims - {self._index.slots.shape.dims[-1]}])
            lowering.add_counter("einsum", mesh_impl.laid_out_size(shape))
            lowering.add_counter("einsum_unique", shape.size)


class _ToSlots(_Move):
    """See `to_slots`."""

    def __init__(self, tokens: mtf.Tensor, index: SlotIndex):
        trailing = tokens.shape.dims[len(index.slots.shape) - 1 :]
        super().__init__(
            [tokens], index, [(index.sources.shape + trailing, tokens.dtype)], "to_slots"
        )

    @staticmethod
    def compute(engine: ModuleType, sizes: SlotSizes, *slices: tf.Tensor) -> _Outputs:
        return engine.to_slots(*slices, sizes)

    def gradient(self, grad_ys: list[mtf.Tensor]) -> list[mtf.Tensor | None]:
        return [to_tokens(grad_ys[0], self.index), None, None]


class _ToTokens(_Move):
    """See `to_tokens`."""

    def __init__(self, buffers: mtf.Tensor, index: SlotIndex, weights: mtf.Tensor | None):
        trailing = buffers.shape.dims[len(index.sources.shape) :]
        shape = mtf.Shape(index.slots.shape.dims[:-1] + trailing)
        self._is_weighted = weights is not None
        super().__init__(
            [buffers, weights] if self._is_weighted else [buffers],
            index,
            [(shape, buffers.dtype)],
            "to_tokens",
        )

    @staticmethod
    def compute(engine: ModuleType, sizes: SlotSizes, *slices: tf.Tensor) -> _Outputs:
        buffers, *weights, slots, sources = slices
        return engine.to_tokens(buffers, slots, sources, sizes, *weights)

    def gradient(self, grad_ys: list[mtf.Tensor]) -> list[mtf.Tensor | None]:
        if not self._is_weighted:
            return [to_slots(grad_ys[0], self.index), None, None]
        buffers, weights = self.inputs[:2]
        gradient = _ToTokensGradient(grad_ys[0], buffers, weights, self.index)
        return [*gradient.outputs, None, None]


class _ToTokensGradient(_Move):
    """Outputs the gradients of `to_tokens` for buffers and weights."""

    has_gradient = False

    def __init__(
        self, tokens: mtf.Tensor, buffers: mtf.Tensor, weights: mtf.Tensor, index: SlotIndex
    ):
        self._trailing = buffers.shape.dims[len(index.sources.shape) :]
        super().__init__(
            [tokens, buffers, weights],
            index,
            [(buffers.shape, buffers.dtype), (weights.shape, weights.dtype)],
            "to_slots_weighted",
        )

    @staticmethod
    def compute(engine: ModuleType, sizes: SlotSizes, *slices: tf.Tensor) -> _Outputs:
        tokens, buffers, weights, slots, sources = slices
        return engine.to_slots_weighted(tokens, buffers, slots, sources, sizes, weights)

    def summed(
        self, lowering: mtf.Lowering, value: mtf.LazyAllreduceSum, output: mtf.Tensor
    ) -> mtf.LazyAllreduceSum:
        """Sums the gradient of weights over the depth, which may be split."""
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

    def __init__(self, values: list[mtf.Tensor], index: SlotIndex, fields: mtf.Dimension):
        super().__init__(
            values, index, [(index.sources.shape + [fields], values[0].dtype)], "choices_to_slots"
        )

    @staticmethod
    def compute(engine: ModuleType, sizes: SlotSizes, *slices: tf.Tensor) -> _Outputs:
        return engine.choices_to_slots(list(slices[:-2]), *slices[-2:], sizes)
