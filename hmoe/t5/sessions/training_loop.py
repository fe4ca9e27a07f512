"""Runs training steps in a session, from the start of a run or from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from hmoe.compat.stack import mtf, tf
from hmoe.startup.signals import OrderlyStop
from hmoe.storage import checkpoint_saving
from hmoe.t5.graphs import build
from hmoe.t5.graphs.model_settings import TRAIN, ModelSettings
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions import (
    agreement,
    architecture_check,
    checkpoints,
    displays,
    processes,
    session_graph,
    training_folder,
    warm_start,
)
from hmoe.t5.sessions.estimator_protocol import InputFn
from hmoe.t5.sessions.hooks import StepRange, training_hooks
from hmoe.t5.sessions.mesh_saver import MeshSaver
from hmoe.t5.sessions.processes import SessionOfRun
from hmoe.t5.sessions.session_settings import SessionSettings
from hmoe.t5.sessions.training_folder import PLAIN, Beginning

Hooks = Sequence[tf.train.SessionRunHook]


def train(
    settings: ModelSettings,
    session: SessionSettings,
    input_fn: InputFn,
    max_steps: int,
    more_hooks: Hooks = (),
    beginning: Beginning = PLAIN,
) -> None:
    """Trains until the global step is `max_steps`; see `SessionEstimator.train`."""
    checkpoint_saving.check_keep(settings.keep_checkpoint_max)
    newest = training_folder.newest(settings.model_dir, beginning.anew)
    path = newest.path
    steps = StepRange(checkpoints.step_of(path) if path else 0, max_steps)
    agreement.check({"checkpoint": path or "none"})
    if steps.first >= steps.last:
        session.say(
            f"{path} is at step {steps.first}, and training is to stop at step {steps.last}: "
            "nothing to train; for more steps, raise utils.run.train_steps"
        )
        return
    with session_graph.new_graph(session.seed), session.interruptible() as stop:
        graph = _build(settings, session, input_fn)
        _say_traffic(graph.lowering, session)
        saver = MeshSaver(graph.lowering, settings.keep_checkpoint_max)
        _choose_initial_values(settings, session, path)
        agreement.check(session_graph.topics(graph.lowering))
        # Nothing in the folder has been changed up to here, where the model is known to be right.
        if not beginning.anew and processes.is_first():
            training_folder.take_up(settings.model_dir, newest, session.say)
        with session.live() as region:
            display = displays.display_for(region, session.say, max_steps)
            hooks = training_hooks(
                settings, session, graph, saver, steps, stop, beginning, display, more_hooks
            )
            _run_steps(settings, session, graph, saver.scaffold(path), hooks, stop)
        # All do the same, also if one was asked after the last step; and the checkpoint is whole.
        if agreement.any_of(stop.asked()):
            stop.ask()
            _report_stop(settings, session)


def _build(settings: ModelSettings, session: SessionSettings, input_fn: InputFn) -> TrainingGraph:
    session.say("Building the model ...")
    features = session_graph.next_batch(input_fn)
    mesh_impl = session_graph.mesh_of(settings, session)
    return build.build_graph(settings, features, TRAIN, mesh_impl)


def _say_traffic(lowering: mtf.Lowering, session: SessionSettings) -> None:
    """Prints what the step of a mesh of processes sends."""
    for line in session_graph.traffic_lines(lowering):
        session.say(line)


def _report_stop(settings: ModelSettings, session: SessionSettings) -> NoReturn:
    """Raises KeyboardInterrupt for a run that stopped in order, and tells how to resume it."""
    session.say(
        f"Stopped; the last checkpoint is {checkpoints.latest(settings.model_dir)}. "
        "To resume, run the same command again"
    )
    agreement.leave_together()
    raise KeyboardInterrupt


def _choose_initial_values(
    settings: ModelSettings, session: SessionSettings, path: str | None
) -> None:
    """Checks the run's own checkpoint, which the session restores, or starts from another's."""
    if path:
        architecture_check.check_matches(path, with_optimizer=True)
        session.say(f"Resuming from {path}")
        return
    message = warm_start.initialize(settings)
    if message:
        session.say(message)


def _run_steps(
    settings: ModelSettings,
    session: SessionSettings,
    graph: TrainingGraph,
    scaffold: tf.train.Scaffold,
    hooks: Hooks,
    stop: OrderlyStop,
) -> None:
    """Runs steps until a hook asks to stop; from here on, an interrupted run is saved first."""
    session.say("Preparing the first step ...")
    try:
        new_session = SessionOfRun(scaffold, list(hooks), session.master, session.config())
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
        # The run's own checkpoint has been read before; a new run begins with that of another one.
        raise checkpoints.damaged(settings.init_checkpoint or "", error) from error
    with new_session as tf_session:
        stop.arm()
        while not tf_session.should_stop():
            tf_session.run(graph.train_op)
