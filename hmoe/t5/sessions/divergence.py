"""Explains a run that diverged: the terms of the loss that are wrong, and the likely cause."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from hmoe.compat.stack import tf
from hmoe.layer import metric_sums
from hmoe.storage import (
    checkpoint_files,
    checkpoint_folder,
    checkpoint_saving,
    moving_aside,
)
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.sums import SumKey, model_sum
from hmoe.t5.sessions import checkpoints

# Names of the losses of a level for people.
_LOSSES = {
    "balance": "balance loss",
    "z": "router z-loss",
    "second_place": "balance loss of second choices",
}
# Number of terms that a message lists; it only counts the rest.
_MAX_LISTED = 3


def wrong_terms(settings: ModelSettings, sums: Mapping[SumKey, np.ndarray]) -> str:
    """Names the terms of the loss that are not finite, in the order in which a step computes them.

    Args:
      settings: the model's settings.
      sums: the sums of the step.
    """
    found = list(_wrong_terms(sums))
    if not found:
        coefficient = getattr(settings.decoder, "z_loss", 0.0)
        other = f"the output z-loss (z_loss = {coefficient:g})" if coefficient else "their sum"
        return f"every other term is finite, but {other} is not"
    listed = ", ".join(found[:_MAX_LISTED])
    more = f" and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
    first = ", in the order of the model" if len(found) > 1 else ""
    return f"not finite{first}: {listed}{more}"


def _wrong_terms(sums: Mapping[SumKey, np.ndarray]) -> Iterator[str]:
    # An encoder comes before its decoder, and the numbers of blocks and layers have leading zeros.
    def order(key: SumKey) -> tuple[bool, str, int]:
        # A level's load has one more dimension than that of the level above.
        load = sums.get(SumKey(key.layer, metric_sums.load_name(_level(key))), np.zeros([]))
        return not key.layer.startswith("encoder"), key.layer, load.ndim

    losses = [key for key in sums if key.name == metric_sums.losses_name(_level(key))]
    for key in sorted(losses, key=order):
        for kind, (loss, _, _) in metric_sums.decode_losses(sums[key]).items():
            if not math.isfinite(loss):
                yield f"the {_LOSSES[kind]} of {key.layer}, level {_level(key)!r}"
    if not np.isfinite(sums.get(model_sum("cross_entropy"), 0.0)):
        yield "the cross entropy"


def _level(key: SumKey) -> str:
    return key.name.split("/")[0]


def likely_cause(settings: ModelSettings, activation_dtype: str, step: int) -> str:
    """Returns a sentence with the likely cause of a divergence, and what to change.

    Args:
      settings: the model's settings.
      activation_dtype: the data type of activations.
      step: the step at which the run diverged.
    """
    first, now = rate_at(settings, 0), rate_at(settings, max(step - 1, 0))
    if first > 0 and first >= 0.5 * now:
        cause = (
            f"the learning rate is {first:g} from step 0 on, without warm-up: begin with one "
            "(learning_rate_schedules.linear_warmup; warmup_steps in shipped runs), and lower the "
            "learning rate"
        )
    else:
        cause = (
            f"the learning rate, {now:g}, is too high: lower it, or warm up over more steps "
            "(warmup_steps in shipped runs)"
        )
    cause += " (utils.run.learning_rate_schedule)"
    if activation_dtype != "float32":
        cause += (
            f". Activations are {activation_dtype}, which can be the cause too: try float32 "
            "(hmoe.Session.activation_dtype)"
        )
    return f"Likely cause: {cause}"


def rate_at(settings: ModelSettings, step: int) -> float:
    """Returns the learning rate of a step; 0 for a run without a schedule."""
    schedule = settings.learning_rate_schedule
    if not callable(schedule):
        return float(schedule or 0.0)
    with tf.Graph().as_default(), tf.Session() as session:
        return float(session.run(tf.convert_to_tensor(schedule(step=tf.constant(step)))))


def what_is_left(model_dir: str) -> str:
    """Returns a phrase that names the checkpoint from which the next start resumes."""
    path = checkpoints.latest(model_dir)
    if path is None:
        return "no checkpoint was saved before, so the next start begins at step 0"
    return f"the last good checkpoint is {path}, from which the next start resumes"


def what_is_left_of(model_dir: str, step: int, first_step: int) -> str:
    """Returns a phrase about the checkpoints after a loss that is not finite.

    A checkpoint of the step before holds the weights that give this loss. If this session has saved
    it, and there is an older one, it is moved to a subfolder.

    Args:
      model_dir: folder of the run's checkpoints.
      step: the step of the loss.
      first_step: the step that the session began at.
    """
    path = checkpoints.latest(model_dir)
    if path is None or checkpoints.step_of(path) != step - 1:
        return what_is_left(model_dir)
    has_older = checkpoint_files.has_whole_before(model_dir, step - 1)
    if step - 1 == first_step or not has_older:
        older = "an older one" if has_older else "another"
        return (
            f"{path}, the newest checkpoint, holds the weights that give this loss: if another "
            f"configuration does not help, move its files away and resume from {older}"
        )
    where = checkpoint_folder.set_aside(model_dir, step - 1, moving_aside.DIVERGED)
    checkpoint_saving.write_state(model_dir)
    return f"{path}, whose weights give this loss, was moved to {where}; {what_is_left(model_dir)}"
