"""Compares one run of a layer with the loop oracle: outputs, losses, metrics, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.layer import metrics
from hmoe.mesh.randomness import RandomSource
from tests import ask_oracle, graphs, reference, seeded, tolerances
from tests.gradients import assert_same_gradients
from tests.run_layer import Run, run_layer

DIMS = (("outer_batch", 2), ("batch", 3), ("length", 12), ("d_model", 7))

_uniforms: dict[str, np.ndarray] = {}


def known_uniform(
    self: RandomSource, mesh: mtf.Mesh, shape: mtf.Shape, dtype: tf.DType = tf.float32
) -> mtf.Tensor:
    """Replaces `RandomSource.uniform` by numbers that the oracle has as well."""
    values = seeded.generator(self.path).rand(*shape.to_integer_list).astype(np.float32)
    _uniforms[self.path.lstrip("/")] = values
    return graphs.constant(mesh, values, shape.dims)


def run_known(layer: Callable, *args: Any, **call: Any) -> tuple[Run, dict[str, np.ndarray]]:
    """Runs a layer; returns the run and the random numbers that it used, by their stream."""
    _uniforms.clear()
    with mock.patch.object(RandomSource, "uniform", known_uniform):
        run = run_layer(layer, *args, **call)
    return run, dict(_uniforms)


def importance_for(kind: str | None, dims: seeded.Dims) -> np.ndarray | None:
    """Returns importance for tokens of a kind.

    Args:
      kind: None: no importance is given; "whole": full tokens and padding; "mixed": partial
        tokens too.
      dims: names and sizes of all dimensions of the inputs.
    """
    if kind is None:
        return None
    return seeded.importance_of(dims, partial=kind != "whole")


class Case:
    """A layer, run on inputs by name, and the oracle on the same inputs.

    Attributes:
      run: the run of the layer.
      layer: the oracle.
      expected: the result of the oracle.
    """

    def __init__(
        self,
        levels: list[hmoe.Level],
        settings: dict[str, Any] | None = None,
        *,
        train: bool = True,
        importance: str | None = "mixed",
        dims: seeded.Dims = DIMS,
        salt: str = "",
        gradients: bool = True,
    ):
        """Builds and runs both.

        Args:
          levels: levels of the layer.
          settings: other settings of the layer.
          train: whether the layer trains.
          importance: see `importance_for`.
          dims: names and sizes of all dimensions of the inputs.
          salt: makes other inputs.
          gradients: whether to compute gradients.
        """
        self.settings = dict(
            {"experts": hmoe.FeedForwardExperts(hidden_size=11), "metrics": "full"},
            **(settings or {}),
        )
        self.moe = hmoe.HierarchicalMoE(levels=levels, **self.settings)
        self.train = train
        self.dims = dims
        self.kind = importance
        self.tensors = {"inputs": seeded.tokens_of(dims, salt)}
        if self.moe.uses_embeddings:
            self.tensors["embeddings"] = seeded.tokens_of(dims, f"words{salt}")
        self.importance = importance_for(importance, dims)
        self._has_outer = dims[0][0] == "outer_batch"
        self._inserted = self.settings.get("inserted_outer_batch") or 1
        self.run, self._uniforms = run_known(
            self.moe,
            self.tensors["inputs"],
            dims,
            importance=self.importance,
            train=train,
            embeddings=self.tensors.get("embeddings"),
            gradients=gradients,
        )
        self.layer, self.expected = self.ask(dict(self.run.weights, **self.tensors))

    def _streams(self, values: np.ndarray, depth: bool) -> np.ndarray:
        return ask_oracle.as_streams(values, self._has_outer, depth, self._inserted)

    def importance_of_tokens(self) -> np.ndarray:
        """Returns importance [A, tokens], as the first level sees it."""
        given = self.importance
        if given is None:
            given = np.ones([size for _, size in self.dims[:-1]])
        return self._streams(given, depth=False)

    def ask(self, tensors: dict[str, np.ndarray]) -> tuple[reference.Reference, reference.Result]:
        """Runs the oracle with these weights, inputs and embeddings; returns it and its result."""
        weights = {k: v for k, v in tensors.items() if k not in ("inputs", "embeddings")}
        layer = ask_oracle.reference_of(self.moe, weights, self.train, uniforms=self._uniforms)
        for spec in layer.specs:
            spec.balance_coef *= self.settings.get("aux_loss_factor", 1.0)
            spec.z_coef *= self.settings.get("router_z_loss_factor", 1.0)
        words = tensors.get("embeddings")
        rows = np.prod([size for name, size in self.dims if name in ("outer_batch", "batch")])
        importance = self.importance_of_tokens()
        return layer, layer(
            self._streams(tensors["inputs"], depth=True),
            importance,
            None if words is None else self._streams(words, depth=True),
            rows=int(rows) // len(importance),
        )

    def outputs(self, expected: reference.Result) -> np.ndarray:
        """Returns the outputs of the oracle in the shape of those of the layer."""
        shape = [size for _, size in self.dims[:-1]]
        return ask_oracle.from_streams(expected.outputs, shape, self._has_outer, self._inserted)

    def assert_hard_and_clear(self) -> None:
        """Checks that the inputs overflow buffers, and that no decision hangs on rounding."""
        reference.assert_not_easy(
            self.expected,
            self.layer.specs,
            partial=self.kind == "mixed",
            padding=self.kind is not None,
        )
        assert reference.smallest_margin(self.expected) > tolerances.ORACLE_MARGIN

    def assert_same_numbers(self) -> None:
        """Compares outputs, losses and metrics."""
        tolerances.assert_close(self.run.outputs, self.outputs(self.expected), tolerances.ORACLE)
        for kind, value in self.run.losses.items():
            tolerances.assert_close(value, self.expected.losses[kind], tolerances.ORACLE, kind)
        tolerances.assert_close(self.run.loss, self.expected.loss, tolerances.ORACLE)
        self._assert_same_names()

    def _assert_same_names(self) -> None:
        """Compares all metrics by their final names; a level can have ranks that no token has."""
        named = metrics.summarize({"layer": self.run.sums})
        known = reference.final_names(
            self.layer,
            self.expected,
            self.importance_of_tokens(),
            full=self.settings["metrics"] == "full",
        )
        for name, value in known.items():
            tolerances.assert_close(named.pop(f"layer/{name}"), value, tolerances.ORACLE, name)
        for name, value in named.items():
            if name.startswith("experts/"):
                tolerances.assert_close(
                    value, known[name[len("experts/") :]], tolerances.ORACLE, name
                )
            else:
                assert "_rank_" in name, name
                assert value == 0.0

    def assert_same_gradients(self) -> None:
        """Compares all gradients with differences of the oracle's objective."""
        direction = seeded.direction_of(self.run.outputs.shape)

        def objective(tensors: dict[str, np.ndarray]) -> float:
            _, expected = self.ask(tensors)
            return float(np.sum(self.outputs(expected) * direction)) + expected.loss

        gradients = dict(self.run.gradients)
        modes = [level.router.gate.word_embeddings for level in self.moe.levels]
        if all(mode is None or mode.endswith("_stop_grad") for mode in modes):
            # A difference does not stop at a stopped gradient.
            gradients.pop("embeddings", None)
        assert_same_gradients(gradients, objective, dict(self.run.weights, **self.tensors))
