"""The settings of a T5 model as gin resolved them, read from Mesh TensorFlow's own configurable.

Mesh TensorFlow's `tpu_estimator_model_fn` does nothing but keep its arguments for the function that
it returns. Calling it and reading its closure gives each argument as gin resolved it, under the
names that T5's gin files use, and records them in gin's operative configuration as T5's own
command does.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import seqio
from mesh_tensorflow.transformer import transformer, utils

from hmoe.analysis.traces import LayerInfo
from hmoe.compat.stack import mtf, tf

# The modes, with the values of TensorFlow's `ModeKeys`; scoring is T5's own.
Mode: TypeAlias = Literal["train", "eval", "infer", "score"]
TRAIN: Final = "train"
EVAL: Final = "eval"
PREDICT: Final = "infer"
SCORE: Final = "score"

TransformerModel: TypeAlias = (
    transformer.Unitransformer | transformer.Bitransformer | transformer.StudentTeacher
)
# One vocabulary for inputs and targets, or one for each.
Vocabulary: TypeAlias = seqio.Vocabulary | tuple[seqio.Vocabulary, seqio.Vocabulary]
VariableFilter: TypeAlias = Callable[[mtf.Variable], bool]


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The resolved arguments of `tpu_estimator_model_fn`, whose docstring explains each of them.

    `use_tpu` is the name of the TPU or None; `mesh_devices` has one device name per mesh slice.
    `replayed` is no argument of it: the layers of a trace whose choices are replayed.
    """

    model_type: str
    transformer_model: TransformerModel
    vocabulary: Vocabulary
    model_dir: str
    use_tpu: str | None
    mesh_shape: mtf.Shape
    layout_rules: mtf.LayoutRules
    batch_size: int
    sequence_length: dict[str, int]
    autostack: bool
    keep_checkpoint_max: int | None
    save_checkpoints_steps: int
    learning_rate_schedule: float | Callable[..., tf.Tensor] | None
    optimizer: Callable[..., mtf.optimize.Optimizer] | None
    outer_batch_size: int
    tpu_summaries: bool
    predict_fn: Callable[..., mtf.Tensor] | None
    score_in_predict_mode: bool
    variable_filter: str | VariableFilter | None
    init_checkpoint: str | None
    init_variable_filter: str
    ensemble_inputs: int | None
    mesh_devices: list[str]
    model_info_file: str | None
    hierarchical_tiling_spec: list | None
    replayed: tuple[LayerInfo, ...] = ()

    @property
    def variable_dtype(self) -> mtf.VariableDType:
        """The data types that gin binds to `utils.get_variable_dtype`."""
        return utils.get_variable_dtype()

    @property
    def decoder(self) -> transformer.Unitransformer:
        """The stack that computes the logits."""
        model = self.transformer_model
        model = getattr(model, "student", model)
        return getattr(model, "decoder", model)


def from_gin(**given: object) -> ModelSettings:
    """Resolves the settings.

    Args:
      **given: arguments that the caller fixes; the others come from gin or upstream's defaults.

    Returns:
      The settings.

    Raises:
      TypeError: upstream has no argument of a given name.
    """
    function = utils.tpu_estimator_model_fn(**given)
    kept = dict(zip(function.__code__.co_freevars, function.__closure__))
    names = [field.name for field in dataclasses.fields(ModelSettings) if field.name != "replayed"]
    return ModelSettings(**{name: kept[name].cell_contents for name in names})


def text_length(settings: ModelSettings, feature: str) -> int:
    """Returns the row length, in tokens, of a feature such as "targets_segmentation"."""
    return settings.sequence_length[feature.split("_")[0]]


def trained_variable(settings: ModelSettings) -> VariableFilter:
    """Returns the predicate that selects the variables to train, from `variable_filter`.

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


def learning_rate(settings: ModelSettings) -> float | tf.Tensor | None:
    """Returns the learning rate: a number, or a tensor that follows the global step."""
    schedule = settings.learning_rate_schedule
    if not callable(schedule):
        return schedule
    with mtf.utils.outside_all_rewrites():
        return schedule(step=tf.train.get_global_step())
