"""Checks weights and optimizer slots before they are saved, so that no checkpoint is poisoned."""

from __future__ import annotations

import numpy as np

from hmoe.compat.stack import tf
from hmoe.startup.errors import RunFailedError
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.sessions import divergence
from hmoe.t5.sessions.architecture_check import is_slot
from hmoe.t5.sessions.session_settings import SessionSettings


class WeightCheck:
    """Compares every variable with the bound `hmoe.Session.largest_weight`.

    Slots of an optimizer hold means of squared gradients, so their bound is its square. The check
    is built into the default graph: one boolean a variable leaves it, and no value.

    Args:
      settings: the model's settings.
      session: settings of sessions.
    """

    def __init__(self, settings: ModelSettings, session: SessionSettings):
        self._settings = settings
        self._session = session
        variables = [v for v in tf.global_variables() if v.dtype.is_floating]
        # The values as they are when this is run, not those that a step reads once.
        self._values = {v.op.name: v.read_value() for v in variables}
        # A comparison with what is not a number is false.
        self._fits = {
            name: tf.reduce_all(tf.abs(value) <= self._bound(name))
            for name, value in self._values.items()
        }

    def check(self, tf_session: tf.Session, step: int) -> None:
        """Checks the weights after a step, which `MeshSaver.collect` has copied from the mesh.

        Args:
          tf_session: the session that trains.
          step: the step.

        Raises:
          RunFailedError: a variable holds values that are not finite or beyond the bound; the
            message names the variable, the last good checkpoint and the likely cause.
        """
        fits = tf_session.run(self._fits)
        wrong = [name for name, fit in fits.items() if not fit]
        if not wrong:
            return
        cause = divergence.likely_cause(self._settings, self._session.activation_dtype, step)
        raise RunFailedError(
            f"training diverged: at step {step}, {self._description(tf_session, wrong)}. Nothing "
            f"of this step was saved; {divergence.what_is_left(self._settings.model_dir)}. {cause}"
        )

    def _description(self, tf_session: tf.Session, wrong: list[str]) -> str:
        """Describes the first weight that is wrong, or the first slot if only slots are."""
        name = next((name for name in wrong if not is_slot(name)), wrong[0])
        sizes = np.abs(np.asarray(tf_session.run(self._values[name]), np.float64))
        is_finite = np.isfinite(sizes)
        largest = np.max(sizes, where=is_finite, initial=0.0)
        found = [f"values up to {largest:.3g}"] if largest > self._bound(name) else []
        if not is_finite.all():
            found.append(f"{np.sum(~is_finite):,} of {sizes.size:,} values that are not finite")
        others = f"; {len(wrong) - 1} other variables do so too" if len(wrong) > 1 else ""
        return (
            f"{name} holds {' and '.join(found)}, where hmoe.Session.largest_weight lets it hold "
            f"at most {self._bound(name):g}{others}"
        )

    def _bound(self, name: str) -> float:
        bound = self._session.largest_weight ** (2 if is_slot(name) else 1)
        # Infinity must not pass, whatever the bound.
        return min(bound, float(self._values[name].dtype.max))
