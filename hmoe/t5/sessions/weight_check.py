"""Checks weights and optimizer slots before they are saved, so that no checkpoint is poisoned."""

from __future__ import annotations

import math
from typing import NamedTuple

from hmoe.compat.stack import mtf, tf
from hmoe.lowering import slice_variables
from hmoe.lowering.collective import CollectiveMesh
from hmoe.startup.errors import RunFailedError
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.sessions import divergence, processes
from hmoe.t5.sessions.architecture_check import graph_shapes, is_slot
from hmoe.t5.sessions.session_settings import SessionSettings


class _Sizes(NamedTuple):
    """How large the values of variables are.

    Attributes:
      largest: float32 [variables], the largest size of a finite value.
      not_finite: float32 [variables], the number of values that are not finite.
    """

    largest: tf.Tensor
    not_finite: tf.Tensor


class WeightCheck:
    """Compares every variable with the bound `hmoe.Session.largest_weight`.

    Slots of an optimizer hold means of squared gradients, so their bound is its square. The check
    is built into the default graph: two numbers a variable leave it, and no value.

    Args:
      settings: the model's settings.
      session: settings of sessions.
      mesh_impl: the mesh; on one of processes the check covers what all of them hold.
    """

    def __init__(
        self,
        settings: ModelSettings,
        session: SessionSettings,
        mesh_impl: mtf.MeshImpl | None = None,
    ):
        self._settings = settings
        self._session = session
        variables = [v for v in tf.global_variables() if v.dtype.is_floating]
        self._bounds = {slice_variables.part_of(v).name: self._bound(v) for v in variables}
        sizes = _sizes_of(variables)
        if isinstance(mesh_impl, CollectiveMesh):
            sizes = _over_all(sizes, variables, mesh_impl)
        self._sizes = sizes
        shapes = graph_shapes()
        self._counts = {name: math.prod(shapes[name]) for name in self._bounds}

    def check(self, tf_session: tf.Session, step: int) -> None:
        """Checks the weights after a step, which `MeshSaver.collect` has copied from the mesh.

        Args:
          tf_session: the session that trains.
          step: the step.

        Raises:
          RunFailedError: a variable holds values that are not finite or beyond the bound; the
            message names the variable, the last good checkpoint and the likely cause.
        """
        with processes.noticing_loss():
            found = tf_session.run(self._sizes, options=processes.run_options())
        sizes = {
            name: (float(largest), int(not_finite))
            for name, largest, not_finite in zip(self._bounds, *found)
        }
        wrong = [n for n, (size, bad) in sizes.items() if bad or not size <= self._bounds[n]]
        if not wrong:
            return
        cause = divergence.likely_cause(self._settings, self._session.activation_dtype, step)
        raise RunFailedError(
            f"training diverged: at step {step}, {self._description(wrong, sizes)}. Nothing "
            f"of this step was saved; {divergence.what_is_left(self._settings.model_dir)}. {cause}"
        )

    def _description(self, wrong: list[str], sizes: dict[str, tuple[float, int]]) -> str:
        """Describes the first weight that is wrong, or the first slot if only slots are."""
        name = next((name for name in wrong if not is_slot(name)), wrong[0])
        largest, not_finite = sizes[name]
        found = [f"values up to {largest:.3g}"] if largest > self._bounds[name] else []
        if not_finite:
            found.append(f"{not_finite:,} of {self._counts[name]:,} values that are not finite")
        others = f"; {len(wrong) - 1} other variables do so too" if len(wrong) > 1 else ""
        return (
            f"{name} holds {' and '.join(found)}, where hmoe.Session.largest_weight lets it hold "
            f"at most {self._bounds[name]:g}{others}"
        )

    def _bound(self, variable: tf.Variable) -> float:
        slot = is_slot(slice_variables.part_of(variable).name)
        bound = self._session.largest_weight ** (2 if slot else 1)
        # Infinity must not pass, whatever the bound.
        return min(bound, float(variable.dtype.max))


def _sizes_of(variables: list[tf.Variable]) -> _Sizes:
    largest, not_finite = [], []
    for variable in variables:
        # The values as they are when this is run, not those that a step reads once.
        value = variable.read_value()
        is_finite = tf.math.is_finite(value)
        sizes = tf.where_v2(is_finite, tf.abs(value), tf.zeros([], value.dtype))
        largest.append(tf.cast(tf.reduce_max(sizes), tf.float32))
        not_finite.append(tf.reduce_sum(tf.cast(~is_finite, tf.float32)))
    return _Sizes(tf.stack(largest), tf.stack(not_finite))


def _over_all(sizes: _Sizes, variables: list[tf.Variable], mesh_impl: CollectiveMesh) -> _Sizes:
    """Returns the sizes of whole variables from those of the parts that processes hold."""
    # What several processes hold alike is counted by the one that saves it.
    own = {id(variable) for variable in mesh_impl.own_variables}
    counts = [
        float(id(v) in own or (mesh_impl.number == 0 and not slice_variables.part_of(v).spec))
        for v in variables
    ]
    axes = range(mesh_impl.ndims)

    def reduced(value: tf.Tensor, reduction: str) -> tf.Tensor:
        laid_out = mesh_impl.LaidOutTensor([value])
        return mesh_impl.allreduce(laid_out, axes, reduction).one_slice

    found = _Sizes(
        reduced(sizes.largest, "MAX"),
        reduced(tf.where_v2(tf.constant(counts) > 0, sizes.not_finite, 0.0), "SUM"),
    )
    mesh_impl.finish(found)
    return found
