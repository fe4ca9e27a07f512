"""Builds a layer once, feeds it many inputs, and reads the decisions of its routers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

import hmoe
from hmoe.compat.stack import mtf, tf
from tests import graphs, meshes, seeded
from tests.slots import slot_tokens


@dataclasses.dataclass
class Decisions:
    """The decisions of one level; "..." are its groups and the experts of the levels above.

    Attributes:
      importance: [..., S], importance of the tokens that arrived.
      slot_tokens: [..., X, C], the token in each slot, or -1.
      expert: [..., S, K], the expert of each choice.
      position: [..., S, K], its slot there, or -1.
      kept: [..., S, K], whether it found room.
      weight: [..., S, K], its weight.
    """

    importance: np.ndarray
    slot_tokens: np.ndarray
    expert: np.ndarray
    position: np.ndarray
    kept: np.ndarray
    weight: np.ndarray


@dataclasses.dataclass
class Outcome:
    """The numbers of one run.

    Attributes:
      outputs: float32.
      levels: decisions of each level, outermost first.
      gradients: gradients of sum(outputs * fixed numbers), by variable.
    """

    outputs: np.ndarray
    levels: list[Decisions]
    gradients: dict[str, np.ndarray]


class FedLayer:
    """A layer on one device that is called with arrays."""

    def __init__(
        self,
        moe: hmoe.HierarchicalMoE,
        dims: seeded.Dims,
        *,
        train: bool,
        dtype: tf.DType = tf.float32,
        gradients: bool = False,
        **call: Any,
    ):
        """Builds the graph; see `tests.run_layer` for the arguments."""
        self._shape = [size for _, size in dims]
        self._levels: list[dict[str, mtf.Tensor]] = []
        self._slots: list[tuple[int, int]] = []
        with tf.Graph().as_default():
            graphs.read_variables_once()
            graph = mtf.Graph()
            mesh = mtf.Mesh(graph, "mesh")
            self._inputs = tf.placeholder(tf.float32, self._shape)
            self._importance = tf.placeholder(tf.float32, self._shape[:-1])
            all_dims = graphs.mtf_dims(dims)
            tokens = mtf.cast(mtf.import_tf_tensor(mesh, self._inputs, mtf.Shape(all_dims)), dtype)
            if moe.uses_embeddings:
                # Sixteenths are exact in any type.
                words = np.round(seeded.tokens_of(dims, "words") * 16) / 16
                call["embeddings"] = mtf.cast(graphs.constant(mesh, words, all_dims), dtype)
            with self._listening({type(level.router) for level in moe.levels}):
                result = moe(
                    tokens,
                    mtf.Dimension("d_out", 13),
                    train=train,
                    importance=mtf.import_tf_tensor(
                        mesh, self._importance, mtf.Shape(all_dims[:-1])
                    ),
                    variable_dtype=mtf.VariableDType(tf.float32, tf.float32, dtype),
                    **call,
                )
            outputs = mtf.cast(result.outputs, tf.float32)
            wanted = {"outputs": outputs, "levels": self._levels, "gradients": {}}
            if gradients:
                direction = seeded.direction_of(outputs.shape.to_integer_list)
                objective = mtf.reduce_sum(
                    outputs * graphs.constant(mesh, direction, outputs.shape.dims)
                )
                variables = graph.trainable_variables
                grads = mtf.gradients([objective], [v.outputs[0] for v in variables])
                wanted["gradients"] = {v.name: g for v, g in zip(variables, grads) if g is not None}
            lowering = meshes.lower(mesh)
            self._fetched = tf.nest.map_structure(lowering.export_to_tf_tensor, wanted)
            self._session = graphs.quick_session()
            self._session.run(tf.global_variables_initializer())
            graphs.load_weights(self._session, lowering)

    @contextlib.contextmanager
    def _listening(self, kinds: set[type[hmoe.Router]]) -> Iterator[None]:
        """Keeps what `assign` of routers of these kinds returns within the context."""
        with contextlib.ExitStack() as stack:
            for kind in kinds:
                stack.enter_context(mock.patch.object(kind, "assign", self._kept(kind.assign)))
            yield

    def _kept(self, assign: Callable[..., hmoe.Assignment]) -> Callable[..., hmoe.Assignment]:
        def keeping(
            router: hmoe.Router, scores: Any, importance: mtf.Tensor, *more: Any
        ) -> hmoe.Assignment:
            result = assign(router, scores, importance, *more)
            self._levels.append(
                {
                    "importance": importance,
                    "position": result.position,
                    "expert": result.expert,
                    "kept": result.kept,
                    "weight": result.weight,
                }
            )
            num_experts = result.choices.experts_dim.size
            self._slots.append((num_experts, result.capacity_dim.size))
            return result

        return keeping

    def __call__(self, x: np.ndarray, importance: np.ndarray | None = None) -> Outcome:
        """Runs the layer; without importance all tokens are full."""
        if importance is None:
            importance = np.ones(self._shape[:-1])
        got = self._session.run(self._fetched, {self._inputs: x, self._importance: importance})
        levels = [
            Decisions(**each, slot_tokens=slot_tokens(each["expert"], each["position"], *slots))
            for each, slots in zip(got["levels"], self._slots)
        ]
        return Outcome(got["outputs"], levels, got["gradients"])
