"""`hmoe train`: begins a run or resumes one, and evaluates it where that is wanted."""

from __future__ import annotations

from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import configure, cut_warnings, gin_config, replay, run_report, run_start
from hmoe.t5.commands.evaluate import run_evaluation
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.evaluation import report
from hmoe.t5.sessions import checkpoints
from hmoe.t5.sessions.training_folder import Beginning


def train(request: Request, console: Console) -> None:
    """Trains a model; after the default job or on a user's own data, also evaluates it."""
    start = run_start.prepare(request, console)
    request = start.request
    cut_warnings.warn_of_training(console.say)
    run = T5Run(
        mode=configure.mode_of("train"),
        model_dir=request.model_dir,
        say=console.say,
        live=console.live,
        machine=request.machine,
        beginning=Beginning(request.overwrite, start.keep),
        replay=replay.of_request(request),
        arguments={"dataset_split": "train"},
    )
    run.start()
    if _evaluates(request):
        run_evaluation(request, console)
        run_report.write(request, console)
    latest = checkpoints.require_latest(request.model_dir)
    report.print_run_files(console.say, request.model_dir, latest, console.log_path or "")


def _evaluates(request: Request) -> bool:
    if request.evaluate is not None:
        return request.evaluate
    return not request.gin_file and gin_config.value("run.eval_dataset_fn") is not None
