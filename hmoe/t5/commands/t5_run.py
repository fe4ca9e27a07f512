"""The one adapter around `mesh_tensorflow.transformer.utils.run`, which runs a mode of T5.

Everything that gin binds to `utils.run` keeps its meaning, since upstream's function reads it. That
function takes the estimator, the evaluation, the inference and the scoring from names of its
module; for the length of a run they are replaced by those of a `T5Run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import gin
from mesh_tensorflow.transformer import utils

from hmoe.analysis.replay import Replay
from hmoe.compat import patches
from hmoe.compat.stack import mtf, tf
from hmoe.startup import mesh_text
from hmoe.startup.live_region import LiveRegion
from hmoe.startup.request import Machine
from hmoe.t5.commands import gin_config
from hmoe.t5.commands.gin_config import value
from hmoe.t5.data import training_batches
from hmoe.t5.evaluation import evaluate
from hmoe.t5.graphs import model_settings as settings_lib
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.layers import layout_check
from hmoe.t5.sessions import agreement, processes, session_graph, training_folder
from hmoe.t5.sessions.estimator import SessionEstimator
from hmoe.t5.sessions.hooks import FirstStepHook
from hmoe.t5.sessions.session_settings import SessionSettings
from hmoe.t5.sessions.training_folder import PLAIN, Beginning


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Run:
    """One run of a mode, with the gin configuration that has been read.

    Attributes:
      mode: mode of `utils.run`, such as "train" or "eval".
      model_dir: folder of checkpoints and logs.
      say: prints a line for the user.
      live: opens the end of the terminal for the table of training; by default there is none.
      machine: the machine to run on; by default this one.
      types_of_tpus: whether activations have the data type that gin has for TPUs, although the
        machine is none.
      estimator: takes the place of `utils.get_estimator`; by default `make_estimator`, with the
        session that gin configures.
      evaluate: takes the place of `utils.eval_model`; None for upstream's.
      infer: takes the place of `utils.infer_model`; None for upstream's.
      score: takes the place of `utils.score_from_strings`; None for upstream's.
      beginning: how training begins in the folder.
      replay: the choices of a trace, which take the place of the routers' own; None: routers
        choose.
      arguments: arguments of `utils.run` that take precedence over gin's.
    """

    mode: str
    model_dir: str
    say: Callable[[str], None]
    live: Callable[[], AbstractContextManager[LiveRegion | None]] = contextlib.nullcontext
    machine: Machine = Machine()
    types_of_tpus: bool = False
    estimator: Callable[..., object] | None = None
    evaluate: Callable[..., None] | None = None
    infer: Callable[..., None] | None = None
    score: Callable[..., None] | None = None
    beginning: Beginning = PLAIN
    replay: Replay | None = None
    arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def start(self) -> None:
        """Runs the mode to its end.

        Raises:
          ValueError: the configuration, the data or the checkpoint does not fit.
        """
        _check_configuration()
        agreement.check({"mode": self.mode, **session_graph.configuration()})
        session = SessionSettings(say=self.say, live=self.live)
        if not (self.machine.tpu or self.types_of_tpus):
            _use_activations(session.activation_dtype)
        replacements = (
            (patches.GET_ESTIMATOR, self.estimator or self._estimator_function(session)),
            (patches.CHECKPOINT_ITERATOR, evaluate.checkpoint_paths),
            (patches.EVAL_MODEL, self.evaluate),
            (patches.INFER_MODEL, self.infer),
            (patches.SCORE_FROM_STRINGS, self.score),
        )
        with contextlib.ExitStack() as stack:
            for patch, function in replacements:
                if function is not None:
                    stack.enter_context(patch.replaced_by(function))
            utils.run(
                tpu_job_name=self.machine.tpu_job_name,
                tpu=self.machine.tpu,
                gcp_project=self.machine.gcp_project,
                tpu_zone=self.machine.tpu_zone,
                model_dir=self.model_dir,
                mode=self.mode,
                **self._training_function(),
                **self.arguments,
            )

    def _training_function(self) -> dict[str, object]:
        """Returns what trains with sharded data, unless there is a function of the user's own."""
        name = "train_model_fn"
        if self.mode != "train" or name in self.arguments or value(f"run.{name}") is not None:
            return {}
        return {name: functools.partial(training_batches.train_model, say=self.say)}

    def _estimator_function(self, session: SessionSettings) -> Callable[..., object]:
        """Returns a function in place of upstream's `get_estimator`."""

        def get_estimator(**arguments: Any) -> object:
            estimator = make_estimator(
                session, beginning=self.beginning, replay=self.replay, **arguments
            )
            if self.machine.tpu and self.mode == "train":
                self._prepare_for_tpu(estimator)
            return estimator

        return get_estimator

    def _prepare_for_tpu(self, estimator: Any) -> None:
        """Does around `TPUEstimator`, which saves by itself, what a session of ours does."""
        newest = training_folder.newest(self.model_dir, self.beginning.anew)
        # It goes by the file `checkpoint`, which is put right here, and by the checkpoints that are
        # there before the first step: so this is as late as an old run can be moved.
        if self.beginning.anew:
            training_folder.begin_anew(self.model_dir, self.say)
        else:
            training_folder.take_up(self.model_dir, newest, self.say)
        _call_after_first_step(estimator, self.beginning.keep_run)


def _call_after_first_step(estimator: Any, action: Callable[[], None]) -> None:
    """Lets an estimator call a function once the first step that it trains has succeeded."""
    train = estimator.train

    def train_with_hook(input_fn: Any, max_steps: int, hooks: Sequence[Any] = ()) -> Any:
        return train(input_fn=input_fn, max_steps=max_steps, hooks=[*hooks, FirstStepHook(action)])

    estimator.train = train_with_hook


def _check_configuration() -> None:
    if value("run.checkpoint_input_pipeline"):
        raise ValueError(
            "utils.run.checkpoint_input_pipeline = True is not supported: it needs a hook that was "
            "removed from TensorFlow with its Estimator, and data from Python generators cannot be "
            "saved; use utils.run.skip_seen_data = True with a seed for the data "
            "(mesh_train_dataset_fn.seed)"
        )


def _use_activations(dtype: str) -> None:
    """Binds data types as T5's command does without a TPU; models' gin files have those of TPUs."""
    with gin.unlock_config():
        gin.bind_parameter("utils.get_variable_dtype.slice_dtype", "float32")
        gin.bind_parameter("utils.get_variable_dtype.activation_dtype", dtype)


def check_devices(devices: Sequence[str]) -> None:
    """Raises ValueError for a device that is not there; TensorFlow would take another."""
    for device in devices:
        wanted = mesh_text.number_of(device)
        if wanted is None or mesh_text.job_of(device):
            continue
        kind, number = wanted
        found = [each.name for each in tf.config.list_physical_devices()]
        of_kind = [name for name in found if f":{kind}:" in name]
        if number >= len(of_kind):
            raise ValueError(
                f"utils.run.mesh_devices has {device!r}, but this machine has "
                f"{', '.join(of_kind) or f'no {kind}'}; use '' for any device, or one of "
                f"{', '.join(each.removeprefix('/physical_device:') for each in found)}"
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
    beginning: Beginning = PLAIN,
    replay: Replay | None = None,
    **arguments: Any,
) -> Any:
    """Builds the description of a transformer and the estimator that trains and uses it.

    Args:
      session: settings of sessions and reports.
      model_type: "bitransformer", "lm", ...
      vocabulary: vocabulary of inputs and targets, or a pair of them.
      mesh_shape: shape of the mesh.
      layout_rules: the dimensions that are split, and over which axes.
      use_tpu: name of the TPU, or None.
      tpu_job_name: name of the TPU's worker job.
      iterations_per_loop: training steps on the TPU between two visits of the host.
      cluster: resolver of the TPU's cluster, or None.
      beginning: how training begins in the folder.
      replay: the choices of a trace, for a run without a TPU.
      **arguments: other arguments of upstream's `tpu_estimator_model_fn`.

    Returns:
      A `SessionEstimator`, or TensorFlow's `TPUEstimator` for a TPU.

    Raises:
      ValueError: the layout does not suit the mesh or the experts.
    """
    if not session.master and processes.current() is None:
        check_devices(arguments.get("mesh_devices") or [])
    settings = make_settings(
        session.say,
        model_type=model_type,
        vocabulary=vocabulary,
        mesh_shape=mesh_shape,
        layout_rules=layout_rules,
        use_tpu=use_tpu,
        **arguments,
    )
    if use_tpu:
        from hmoe.t5.sessions import tpu_estimator

        return tpu_estimator.estimator(
            settings, cluster, tpu_job_name, iterations_per_loop, session
        )
    return SessionEstimator(settings, session, beginning, replay)


def make_settings(
    say: Callable[[str], None],
    model_type: str,
    vocabulary: Any,
    mesh_shape: mtf.Shape,
    layout_rules: mtf.LayoutRules,
    **arguments: Any,
) -> ModelSettings:
    """Builds the description of a transformer, with the settings of its run.

    Args:
      say: prints a line for the user.
      model_type: "bitransformer", "lm", ...
      vocabulary: vocabulary of inputs and targets, or a pair of them.
      mesh_shape: shape of the mesh.
      layout_rules: the dimensions that are split, and over which axes.
      **arguments: other arguments of upstream's `tpu_estimator_model_fn`.

    Raises:
      ValueError: the layout does not suit the mesh or the experts.
    """
    return settings_lib.from_gin(
        model_type=model_type,
        transformer_model=_model(say, model_type, vocabulary, mesh_shape, layout_rules),
        vocabulary=vocabulary,
        mesh_shape=mesh_shape,
        layout_rules=layout_rules,
        **arguments,
    )


def _model(
    say: Callable[[str], None],
    model_type: str,
    vocabulary: Any,
    mesh_shape: mtf.Shape,
    layout_rules: mtf.LayoutRules,
) -> Any:
    """Builds the description of a transformer, and warns of a layout that does not suit it."""
    model = utils.build_model(
        model_type=model_type,
        input_vocab_size=utils.inputs_vocabulary(vocabulary).vocab_size,
        output_vocab_size=utils.targets_vocabulary(vocabulary).vocab_size,
        layout_rules=layout_rules,
        mesh_shape=mesh_shape,
    )
    closed = not gin_config.knows_own_code()
    for warning in layout_check.check(model, mesh_shape, layout_rules, closed=closed):
        say(f"Warning: {warning}")
    return model
