"""One run of a layer beside the loop oracle: outputs, losses, metrics, gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

import hmoe
from hmoe.layer import metrics
from hmoe.mesh.randomness import RandomSource
from tests import helpers, reference, tolerances
from tests.helpers import tf

DIMS = (("outer_batch", 2), ("batch", 3), ("length", 12), ("d_model", 7))

_uniforms: dict[str, np.ndarray] = {}


def known_uniform(self: RandomSource, mesh: Any, shape: Any, dtype: Any = tf.float32) -> Any:
    """Stands for `RandomSource.uniform`: numbers that the oracle has as well."""
    values = helpers.seeded(self.path).rand(*shape.to_integer_list).astype(np.float32)
    _uniforms[self.path.lstrip("/")] = values
    return helpers.constant(mesh, values, shape.dims)


def run_known(layer: Callable, *args: Any, **call: Any) -> tuple[helpers.Run, dict[str, Any]]:
    """`helpers.run_layer` and the random numbers that it used, by their stream."""
    _uniforms.clear()
    with mock.patch.object(RandomSource, "uniform", known_uniform):
        run = helpers.run_layer(layer, *args, **call)
    return run, dict(_uniforms)


def importance_for(kind: str | None, dims: helpers.Dims) -> np.ndarray | None:
    """None, "whole": full tokens and padding, or "mixed": partial ones too."""
    if kind is None:
        return None
    return helpers.importance_of(dims, partial=kind != "whole")


class Case:
    """A layer, its inputs, and what the oracle says of them.

    Attributes:
      run: what the layer gave.
      layer: the oracle.
      expected: what the oracle gave.
    """

    def __init__(
        self,
        levels: list[hmoe.Level],
        settings: dict[str, Any] | None = None,
        *,
        train: bool = True,
        importance: str | None = "mixed",
        dims: helpers.Dims = DIMS,
        salt: str = "",
        gradients: bool = True,
    ):
        """Builds and runs both."""
        self.settings = dict(
            {"experts": hmoe.FeedForwardExperts(hidden_size=11), "metrics": "full"},
            **(settings or {}),
        )
        self.moe = hmoe.HierarchicalMoE(levels=levels, **self.settings)
        self.train = train
        self.dims = dims
        self.kind = importance
        self.tensors = {"inputs": helpers.tokens_of(dims, salt)}
        if self.moe.uses_embeddings:
            self.tensors["embeddings"] = helpers.tokens_of(dims, f"words{salt}")
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
        return helpers.as_streams(values, self._has_outer, depth, self._inserted)

    def of_tokens(self) -> np.ndarray:
        """Importance, as the first level sees it."""
        given = self.importance
        if given is None:
            given = np.ones([size for _, size in self.dims[:-1]])
        return self._streams(given, depth=False)

    def ask(self, tensors: dict[str, np.ndarray]) -> tuple[reference.Reference, reference.Result]:
        """The oracle with these weights, inputs and embeddings."""
        weights = {k: v for k, v in tensors.items() if k not in ("inputs", "embeddings")}
        layer = helpers.reference_of(self.moe, weights, self.train, uniforms=self._uniforms)
        for spec in layer.specs:
            spec.balance_coef *= self.settings.get("aux_loss_factor", 1.0)
            spec.z_coef *= self.settings.get("router_z_loss_factor", 1.0)
        words = tensors.get("embeddings")
        rows = np.prod([size for name, size in self.dims if name in ("outer_batch", "batch")])
        of_tokens = self.of_tokens()
        return layer, layer(
            self._streams(tensors["inputs"], depth=True),
            of_tokens,
            None if words is None else self._streams(words, depth=True),
            rows=int(rows) // len(of_tokens),
        )

    def outputs(self, expected: reference.Result) -> np.ndarray:
        """Outputs of the oracle in the shape of the layer's."""
        shape = [size for _, size in self.dims[:-1]]
        return helpers.from_streams(expected.outputs, shape, self._has_outer, self._inserted)

    def assert_hard_and_clear(self) -> None:
        """The inputs make capacities bind, and no decision hangs on rounding."""
        reference.assert_not_easy(
            self.expected,
            self.layer.specs,
            partial=self.kind == "mixed",
            padding=self.kind is not None,
        )
        assert reference.smallest_margin(self.expected) > tolerances.ORACLE_MARGIN

    def assert_same_numbers(self) -> None:
        """Outputs, losses and metrics."""
        tolerances.assert_close(self.run.outputs, self.outputs(self.expected), tolerances.ORACLE)
        for kind, value in self.run.losses.items():
            tolerances.assert_close(value, self.expected.losses[kind], tolerances.ORACLE, kind)
        tolerances.assert_close(self.run.loss, self.expected.loss, tolerances.ORACLE)
        self._assert_same_names()

    def _assert_same_names(self) -> None:
        """All final names; a level can have ranks that no token has."""
        named = metrics.summarize({"layer": self.run.sums})
        known = reference.final_names(
            self.layer, self.expected, self.of_tokens(), full=self.settings["metrics"] == "full"
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
        """Of all variables and inputs, against differences of the oracle's objective."""
        direction = helpers.seeded("direction").randn(*self.run.outputs.shape)

        def objective(tensors: dict[str, np.ndarray]) -> float:
            _, expected = self.ask(tensors)
            return float(np.sum(self.outputs(expected) * direction)) + expected.loss

        run = self.run
        modes = [level.router.gate.word_embeddings for level in self.moe.levels]
        if all(mode is None or mode.endswith("_stop_grad") for mode in modes):
            # Differences know of no stopped gradient.
            gradients = {k: v for k, v in run.gradients.items() if k != "embeddings"}
            run = dataclasses.replace(run, gradients=gradients)
        helpers.compare_gradients(
            run, objective, self.tensors, tolerances.DIFFERENCES_STEP, tolerances.DIFFERENCES
        )
