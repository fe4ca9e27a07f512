"""`hmoe eval`: scores checkpoints on held-out examples."""

from __future__ import annotations

import gin

from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import configure, gin_config, replay
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.evaluation import replay as replay_lib
from hmoe.t5.evaluation.evaluate import eval_model_function
from hmoe.t5.sessions import checkpoints

# Seed of what is random in the examples that are evaluated.
_SEED = 0


def evaluate(request: Request, console: Console) -> None:
    """Evaluates the checkpoints that gin names, or else the newest."""
    checkpoints.warn_of_damage(checkpoints.newest(request.model_dir), console.say)
    request = configure.configure_trained(request, console)
    mode = configure.mode_of("eval")
    make_repeatable()
    if request.replay is not None:
        _replay(request, console, mode)
        return
    if mode == "eval":
        run_evaluation(request, console)
        return
    run = T5Run(
        mode=mode,
        model_dir=request.model_dir,
        say=console.say,
        machine=request.machine,
        arguments=_arguments(),
    )
    checkpoints.again_if_removed(run.start, console.say)
    console.say(f"Wrote the scores to TensorBoard and text files in {request.model_dir}")


def _replay(request: Request, console: Console, mode: str) -> None:
    """Evaluates with the choices of a trace."""
    assert request.replay is not None
    if mode != "eval":
        raise ValueError(
            f"--replay evaluates by teacher forcing; utils.run.mode is {mode!r}: set it to 'eval'"
        )
    run = T5Run(
        mode=mode,
        model_dir=request.model_dir,
        say=console.say,
        evaluate=replay_lib.eval_model_function(console.say, request.replay),
        replay=replay.of_request(request),
        arguments=_arguments(),
    )
    checkpoints.again_if_removed(run.start, console.say)


def run_evaluation(request: Request, console: Console) -> None:
    """Evaluates with answers and by teacher forcing, as configured."""
    make_repeatable()
    # TPUEstimator has methods of its own for this, which upstream's function knows.
    on_tpu = request.machine.tpu is not None
    run = T5Run(
        mode="eval",
        model_dir=request.model_dir,
        say=console.say,
        machine=request.machine,
        evaluate=None if on_tpu else eval_model_function(console.say),
        arguments=_arguments(),
    )
    checkpoints.again_if_removed(run.start, console.say)


def make_repeatable() -> None:
    """Gives random examples (the spans that a text loses, for one) the same seed each time.

    Gin's own seed stays, and so does a choice of other examples at each evaluation.
    """
    if gin_config.value("mesh_eval_dataset_fn.shuffle_eval_examples"):
        return
    if gin_config.value("mesh_eval_dataset_fn.seed") is None:
        with gin.unlock_config():
            gin.bind_parameter("mesh_eval_dataset_fn.seed", _SEED)


def _arguments() -> dict[str, object]:
    return {**configure.newest_checkpoint(), **configure.held_out_data()}
