"""A layer in a graph that is built once and fed many inputs, with what its routers decide."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import hmoe
from tests import helpers, meshes
from tests.helpers import mtf, tf
from tests.slots import slot_tokens


@dataclasses.dataclass
class Decisions:
    """Of one level; "..." are its groups and the experts of the levels above.

    Attributes:
      importance: [..., S], of what arrived.
      slot_tokens: [..., X, C], the token in each slot, or -1.
      expert: [..., S, K], where each choice went.
      position: [..., S, K], its slot there, or -1.
      kept: [..., S, K], whether it found room.
      weight: [..., S, K].
    """

    importance: np.ndarray
    slot_tokens: np.ndarray
    expert: np.ndarray
    position: np.ndarray
    kept: np.ndarray
    weight: np.ndarray


@dataclasses.dataclass
class Outcome:
    """Of one run; gradients are those of a fixed sum of outputs, by variable."""

    outputs: np.ndarray
    levels: list[Decisions]
    gradients: dict[str, np.ndarray]


class FedLayer:
    """A layer on one device, called with arrays."""

    def __init__(
        self,
        moe: hmoe.HierarchicalMoE,
        dims: helpers.Dims,
        *,
        train: bool,
        dtype: Any = None,
        gradients: bool = False,
        **call: Any,
    ):
        """Builds the graph; see `helpers.run_layer` for the arguments."""
        self._shape = [size for _, size in dims]
        self._levels: list[dict[str, Any]] = []
        self._slots: list[tuple[int, int]] = []
        with tf.Graph().as_default():
            helpers.read_variables_once()
            graph = mtf.Graph()
            mesh = mtf.Mesh(graph, "mesh")
            self._inputs = tf.placeholder(tf.float32, self._shape)
            self._importance = tf.placeholder(tf.float32, self._shape[:-1])
            all_dims = helpers.mtf_dims(dims)
            dtype = dtype or tf.float32
            tokens = mtf.cast(mtf.import_tf_tensor(mesh, self._inputs, mtf.Shape(all_dims)), dtype)
            if moe.uses_embeddings:
                # Sixteenths are exact in any type.
                words = np.round(helpers.tokens_of(dims, "words") * 16) / 16
                call["embeddings"] = mtf.cast(helpers.constant(mesh, words, all_dims), dtype)
            for level in moe.levels:
                self._listen(level.router)
            result = moe(
                tokens,
                mtf.Dimension("d_out", 13),
                train=train,
                importance=mtf.import_tf_tensor(mesh, self._importance, mtf.Shape(all_dims[:-1])),
                variable_dtype=mtf.VariableDType(tf.float32, tf.float32, dtype),
                **call,
            )
            outputs = mtf.cast(result.outputs, tf.float32)
            wanted = {"outputs": outputs, "levels": self._levels, "gradients": {}}
            if gradients:
                direction = helpers.seeded("direction").randn(*outputs.shape.to_integer_list)
                objective = mtf.reduce_sum(
                    outputs
                    * helpers.constant(mesh, direction.astype(np.float32), outputs.shape.dims)
                )
                variables = graph.trainable_variables
                grads = mtf.gradients([objective], [v.outputs[0] for v in variables])
                wanted["gradients"] = {v.name: g for v, g in zip(variables, grads) if g is not None}
            lowering = meshes.lower(mesh)
            self._fetched = tf.nest.map_structure(lowering.export_to_tf_tensor, wanted)
            config = tf.ConfigProto()
            config.graph_options.rewrite_options.disable_meta_optimizer = True
            self._session = tf.Session(config=config)
            self._session.run(tf.global_variables_initializer())
            helpers.load_weights(self._session, lowering)

    def _listen(self, router: hmoe.Router) -> None:
        assign = router.assign

        def listening(scores: Any, importance: Any, *more: Any) -> Any:
            result = assign(scores, importance, *more)
            self._levels.append(
                {
                    "importance": importance,
                    "position": result.position,
                    "expert": result.expert,
                    "kept": result.kept,
                    "weight": result.weight,
                }
            )
            choices = result.choices
            self._slots.append((choices.experts_dim.size, result.capacity_dim.size))
            return result

        # Routers are frozen.
        object.__setattr__(router, "assign", listening)

    def __call__(self, x: np.ndarray, importance: np.ndarray | None = None) -> Outcome:
        """Outputs, decisions from the outermost level on, and gradients if asked for."""
        if importance is None:
            importance = np.ones(self._shape[:-1])
        got = self._session.run(self._fetched, {self._inputs: x, self._importance: importance})
        levels = [
            Decisions(**each, slot_tokens=slot_tokens(each["expert"], each["position"], *slots))
            for each, slots in zip(got["levels"], self._slots)
        ]
        return Outcome(got["outputs"], levels, got["gradients"])
