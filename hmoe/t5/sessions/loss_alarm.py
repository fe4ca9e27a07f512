"""Stops a run whose loss or learning rate is not finite, or whose cross entropy is below zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from hmoe.compat.stack import tf
from hmoe.startup.errors import RunFailedError
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.sums import SumKey, model_sum
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions import divergence
from hmoe.t5.sessions.counting_hook import CountingHook
from hmoe.t5.sessions.session_settings import SessionSettings


class LossAlarmHook(CountingHook):
    """Checks the loss of every training step, before anything of the step is reported or saved."""

    def __init__(
        self,
        first_step: int,
        settings: ModelSettings,
        session: SessionSettings,
        graph: TrainingGraph,
    ):
        super().__init__(first_step)
        self._alarm = LossAlarm(first_step, settings, session.activation_dtype)
        self._fetches = (graph.loss, graph.learning_rate, graph.sums)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        """Fetches the loss, the learning rate and all sums."""
        return tf.train.SessionRunArgs(self._fetches)

    def after_step(
        self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues
    ) -> None:
        """Raises RunFailedError if the step's loss or learning rate cannot be right."""
        loss, rate, sums = run_values.results
        self._alarm.check(self.step, float(loss), float(rate), sums)


class LossAlarm:
    """Checks the losses of training steps, one by one or several at once.

    Args:
      first_step: number of steps that were done when training began.
      settings: the model's settings.
      activation_dtype: data type of activations.
    """

    def __init__(self, first_step: int, settings: ModelSettings, activation_dtype: str):
        self._first_step = first_step
        self._settings = settings
        self._activation_dtype = activation_dtype

    def check(
        self,
        step: int,
        loss: float,
        rate: float,
        sums: Mapping[SumKey, np.ndarray],
        num_steps: int = 1,
    ) -> None:
        """Checks a step, or the totals of several: what is not finite in one is not in their total.

        Args:
          step: the number of steps that are done, these among them.
          loss: the loss.
          rate: the learning rate.
          sums: the sums.
          num_steps: the number of steps.

        Raises:
          RunFailedError: loss or learning rate cannot be right.
        """
        is_one = num_steps == 1
        first = step - num_steps + 1
        when = f"at step {step}" if is_one else f"in one of the steps {first} to {step}"
        if not math.isfinite(loss):
            # Which of several steps it was, and so whose weights gave it, is not known.
            left = self._left_of(step) if is_one else divergence.what_is_left(self._model_dir)
            self._raise_loss(loss, step, when, left, sums)
        check_rate(rate, when, self._model_dir)
        check_probabilities(float(sums[model_sum("below_zero")]), when)

    @property
    def _model_dir(self) -> str:
        return self._settings.model_dir

    def _left_of(self, step: int) -> str:
        return divergence.what_is_left_of(self._model_dir, step, self._first_step)

    def _raise_loss(
        self, loss: float, step: int, when: str, left: str, sums: Mapping[SumKey, np.ndarray]
    ) -> NoReturn:
        cause = divergence.likely_cause(self._settings, self._activation_dtype, step)
        raise RunFailedError(
            f"the loss is {loss} {when}, and no later step can recover from it "
            f"({divergence.wrong_terms(self._settings, sums)}). Nothing of {_these(when)} was "
            f"saved; {left}. {cause}"
        )


def _these(when: str) -> str:
    return "these steps" if "steps" in when else "this step"


def check_rate(rate: float, when: str, model_dir: str) -> None:
    """Checks the learning rate of a training step.

    Args:
      rate: the learning rate.
      when: the place in the run, for the message, such as "at step 3".
      model_dir: folder of the run's checkpoints.

    Raises:
      RunFailedError: it is infinite or not a number, and so are all weights after the step.
    """
    if math.isfinite(rate):
        return
    raise RunFailedError(
        f"the learning rate is {rate} {when}, and so are all weights after it. Nothing of "
        f"{_these(when)} was saved; {divergence.what_is_left(model_dir)}. Set another "
        "utils.run.learning_rate_schedule; a warm-up over 0 steps divides by 0 "
        "(learning_rate_schedules.linear_warmup.steps_or_fraction and "
        "truncated_rsqrt.warmup_steps; warmup_steps in shipped runs): set 1 or more"
    )


def check_probabilities(below_zero: float, when: str) -> None:
    """Checks that no target has a probability above 1.

    Args:
      below_zero: sum of `TargetLosses.below_zero`.
      when: the place in the run, for the message, such as "at step 3".

    Raises:
      RunFailedError: one has, so a sum over the mesh must be wrong.
    """
    if below_zero > 0:
        raise RunFailedError(
            f"a target has a probability above 1 {when} (cross entropies are below 0 by "
            f"{below_zero:g} in total): a sum over the mesh is wrong, and so is every number "
            "computed from it. Nothing was saved. Compare with one device (utils.run.mesh_shape = "
            "'' and utils.run.layout_rules = ''), and report the mesh and the layout"
        )
