"""`hmoe train`: begins a run or resumes one, and evaluates it where that is wanted."""

from __future__ import annotations

from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import configure, cut_warnings, gin_config, run_files
from hmoe.t5.commands.evaluate import run_evaluation
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.evaluation import report
from hmoe.t5.sessions import checkpoints


def train(request: Request, console: Console) -> None:
    """Trains a model; after the default job or on a user's own data, also evaluates it."""
    request = _configured(request, console)
    cut_warnings.warn_of_training(console.say)
    T5Run(
        mode="train",
        model_dir=request.model_dir,
        say=console.say,
        machine=request.machine,
        arguments=_arguments(request),
    ).start()
    if _evaluates(request):
        run_evaluation(request, console)
    latest = checkpoints.require_latest(request.model_dir)
    report.print_run_files(console.say, request.model_dir, latest, console.log_path or "")


def _configured(request: Request, console: Console) -> Request:
    """Configures a new run, or the one in `model_dir` if the request names neither gin nor data."""
    begins = request.gin_file or request.data or run_files.read(request.model_dir) is None
    if begins:
        configure.configure_new(request, console)
        run_files.write(request.model_dir, request)
        return request
    console.say(f"Resuming the run in {request.model_dir} with its saved configuration")
    return configure.configure_trained(request, console)


def _arguments(request: Request) -> dict[str, object]:
    arguments: dict[str, object] = {"dataset_split": "train"}
    if request.train_steps is not None:
        arguments["train_steps"] = request.train_steps
    return arguments


def _evaluates(request: Request) -> bool:
    if request.evaluate is not None:
        return request.evaluate
    return not request.gin_file and gin_config.bound("run.eval_dataset_fn") is not None
