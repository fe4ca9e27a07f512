"""What a T5 user's gin file says about the model function, read from upstream's own configurable.

Upstream's `tpu_estimator_model_fn` does nothing but keep its arguments for the function it
returns. Calling it and reading them back gives each argument as gin resolved it, under the names
that T5's gin files use, and puts them into gin's operative configuration as in an upstream run.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import mtf, tf

# Modes, by the values that TensorFlow's ``ModeKeys`` has.
TRAIN, EVAL, PREDICT, SCORE = "train", "eval", "infer", "score"


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Arguments of upstream's `tpu_estimator_model_fn`, resolved; its docstring explains each.

    `use_tpu` is the TPU's name or None; `mesh_devices` has one device name a mesh slice.
    """

    model_type: str
    transformer_model: Any
    vocabulary: Any
    model_dir: str
    use_tpu: str | None
    mesh_shape: mtf.Shape
    layout_rules: mtf.LayoutRules
    batch_size: int
    sequence_length: dict[str, int]
    autostack: bool
    keep_checkpoint_max: int | None
    save_checkpoints_steps: int
    learning_rate_schedule: Any
    optimizer: Any
    outer_batch_size: int
    tpu_summaries: bool
    predict_fn: Callable | None
    score_in_predict_mode: bool
    variable_filter: Any
    init_checkpoint: str | None
    init_variable_filter: str
    ensemble_inputs: int | None
    mesh_devices: list[str]
    model_info_file: str | None
    hierarchical_tiling_spec: list | None

    @property
    def variable_dtype(self) -> mtf.VariableDType:
        """Data types by `utils.get_variable_dtype`, as gin has them."""
        return utils.get_variable_dtype()

    @property
    def decoder(self) -> Any:
        """The Unitransformer that computes the logits."""
        model = self.transformer_model
        model = getattr(model, "student", model)
        return getattr(model, "decoder", model)


def from_gin(**given: Any) -> ModelSettings:
    """Resolves the settings.

    Args:
      **given: what the caller fixes; everything else comes from gin or upstream's defaults.

    Returns:
      The settings.

    Raises:
      TypeError: an argument is unknown to upstream.
    """
    function = utils.tpu_estimator_model_fn(**given)
    kept = dict(zip(function.__code__.co_freevars, function.__closure__))
    names = [field.name for field in dataclasses.fields(ModelSettings)]
    return ModelSettings(**{name: kept[name].cell_contents for name in names})


def text_length(settings: ModelSettings, feature: str) -> int:
    """Tokens in a row of a feature such as "inputs" or "targets_segmentation"."""
    return settings.sequence_length[feature.split("_")[0]]


def trained_variable(settings: ModelSettings) -> Callable[[mtf.Variable], bool]:
    """Whether a variable is to be trained, by `variable_filter`.

    Raises:
      ValueError: the filter is neither None, nor a string, nor a function.
    """
    variable_filter = settings.variable_filter
    if variable_filter is None:
        return lambda variable: True
    if isinstance(variable_filter, str):
        pattern = re.compile(variable_filter)
        return lambda variable: bool(pattern.search(variable.name))
    if callable(variable_filter):
        return variable_filter
    raise ValueError(
        "utils.run.variable_filter must be None, a regular expression, or a function of a "
        f"variable; got {variable_filter!r}"
    )


def learning_rate(settings: ModelSettings) -> Any:
    """The learning rate: a number, or a tensor that follows the global step."""
    schedule = settings.learning_rate_schedule
    if not callable(schedule):
        return schedule
    with mtf.utils.outside_all_rewrites():
        return schedule(step=tf.train.get_global_step())
