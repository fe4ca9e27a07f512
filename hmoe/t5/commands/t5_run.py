"""Runs a mode of T5's own `utils.run` with our trainer in its seams.

Everything that gin says of `utils.run` keeps its meaning, since upstream's function reads it. It
takes the estimator, the evaluation and the inference from module-level names; for the length of a
run these are ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import gin
from mesh_tensorflow.transformer import utils
from t5.models import mesh_transformer

from hmoe.compat.stack import mtf
from hmoe.t5.graphs import model_settings as settings_lib
from hmoe.t5.layers import layout_check
from hmoe.t5.sessions.estimator import SessionEstimator
from hmoe.t5.sessions.session_settings import SessionSettings


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a run runs on.

    Attributes:
      tpu: name or address of a TPU; None for this machine's CPUs and GPUs.
      tpu_job_name: name of its worker job, where it is not the usual one.
      tpu_zone: its zone.
      gcp_project: its project.
    """

    tpu: str | None = None
    tpu_job_name: str | None = None
    tpu_zone: str | None = None
    gcp_project: str | None = None


def run(
    mode: str,
    model_dir: str,
    say: Callable[[str], None],
    machine: Machine | None = None,
    seams: dict[str, Callable] | None = None,
    **overrides: Any,
) -> None:
    """Runs a mode with the gin configuration that has been read.

    Args:
      mode: of `utils.run`, such as "train" or "eval".
      model_dir: folder of checkpoints and logs.
      say: takes lines for the user.
      machine: what to run on; this machine by default.
      seams: more functions of upstream's module to replace, by name.
      **overrides: arguments of `utils.run` that stand above gin's.

    Raises:
      ValueError: something in the configuration, the data or the checkpoint does not fit.
    """
    if bound("run.checkpoint_input_pipeline"):
        raise ValueError(
            "utils.run.checkpoint_input_pipeline = True saves the state of the input, which needs "
            "a hook that left TensorFlow with its Estimator, and cannot be done for data from "
            "Python generators; use utils.run.skip_seen_data = True with a seed for the data "
            "(mesh_train_dataset_fn.seed)"
        )
    machine = machine or Machine()
    session = SessionSettings(say=say)
    if not machine.tpu:
        _use_activations(session.activation_dtype)

    def get_estimator(**arguments: Any) -> Any:
        return make_estimator(session, **arguments)

    with replaced(utils, get_estimator=get_estimator, **(seams or {})):
        utils.run(
            tpu_job_name=machine.tpu_job_name,
            tpu=machine.tpu,
            gcp_project=machine.gcp_project,
            tpu_zone=machine.tpu_zone,
            model_dir=model_dir,
            mode=mode,
            **overrides,
        )


def make_estimator(
    session: SessionSettings,
    model_type: str,
    vocabulary: Any,
    mesh_shape: mtf.Shape,
    layout_rules: mtf.LayoutRules,
    use_tpu: str | None,
    tpu_job_name: str | None,
    iterations_per_loop: int,
    cluster: Any,
    **arguments: Any,
) -> Any:
    """Builds the transformer's description and the estimator of it.

    Args:
      session: of sessions and reports.
      model_type: "bitransformer", "lm", ...
      vocabulary: of inputs and targets, or a pair.
      mesh_shape: of the mesh.
      layout_rules: which dimension is split over which axis.
      use_tpu: the TPU's name, or None.
      tpu_job_name: name of the TPU's worker job.
      iterations_per_loop: steps on the TPU between two visits of the host.
      cluster: of the TPU.
      **arguments: the rest of upstream's `tpu_estimator_model_fn`.

    Returns:
      A `SessionEstimator`, or TensorFlow's `TPUEstimator` for a TPU.

    Raises:
      ValueError: the layout does not suit the mesh or the experts.
    """
    model = utils.build_model(
        model_type=model_type,
        input_vocab_size=utils.inputs_vocabulary(vocabulary).vocab_size,
        output_vocab_size=utils.targets_vocabulary(vocabulary).vocab_size,
        layout_rules=layout_rules,
        mesh_shape=mesh_shape,
    )
    for warning in layout_check.check(model, mesh_shape, layout_rules):
        session.say(f"Warning: {warning}")
    settings = settings_lib.from_gin(
        model_type=model_type,
        transformer_model=model,
        vocabulary=vocabulary,
        mesh_shape=mesh_shape,
        layout_rules=layout_rules,
        use_tpu=use_tpu,
        **arguments,
    )
    if use_tpu:
        from hmoe.t5.sessions import tpu_estimator

        return tpu_estimator.estimator(settings, cluster, tpu_job_name, iterations_per_loop)
    return SessionEstimator(settings, session)


def _use_activations(dtype: str) -> None:
    """As T5's command does where there is no TPU, whose own dtype stands in a model's gin files."""
    with gin.unlock_config():
        gin.bind_parameter("utils.get_variable_dtype.slice_dtype", "float32")
        gin.bind_parameter("utils.get_variable_dtype.activation_dtype", dtype)


def finish_configuration() -> None:
    """Binds the vocabulary as T5's command does, and locks the configuration."""
    gin.bind_parameter("run.vocabulary", mesh_transformer.get_vocabulary())
    gin.finalize()


@contextlib.contextmanager
def replaced(module: Any, **functions: Callable) -> Iterator[None]:
    """Replaces functions of a module for as long as the context is open."""
    before = {name: getattr(module, name) for name in functions}
    for name, function in functions.items():
        setattr(module, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


def bound(name: str, default: Any = None) -> Any:
    """What gin binds to an argument such as `run.mode`; references stay references."""
    try:
        return gin.query_parameter(name)
    except ValueError:
        return default
