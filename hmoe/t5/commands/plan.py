"""`hmoe plan`: counts what a training step would cost on each device, without running it."""

from __future__ import annotations

import functools
from typing import Any

import t5.data

from hmoe.startup import platforms, run_sources
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import configure, gin_config, plan_output
from hmoe.t5.commands.plan_output import PlannedStep
from hmoe.t5.commands.t5_run import T5Run, make_settings
from hmoe.t5.data import training_data
from hmoe.t5.graphs import named_step, step_plan
from hmoe.t5.graphs.model_settings import ModelSettings, Vocabulary

# Pieces of T5's own vocabulary, which lies on another machine.
_NUM_PIECES = 32_000


def plan(request: Request, console: Console) -> None:
    """Plans the training step that gin files, data flags or a saved run describe.

    Nothing is trained, and nothing is written but the pictures that are asked for.

    Args:
      request: the command and its flags.
      console: prints lines for the user.

    Raises:
      ValueError: the configuration is wrong, or its mesh, layout and sizes do not suit each other.
    """
    _say_what_is_planned(request, console)
    planned = resolve(configure.configure_plan(request, console), console)
    console.say("Building the named graph of a step ...")
    step = named_step.named_step(planned.settings, on_tpu=planned.on_tpu, packed=planned.packed)
    console.say("Counting ...")
    found = step_plan.plan_of(step, planned.settings, on_tpu=planned.on_tpu)
    plan_output.show(request, console, found, step, planned)


def resolve(request: Request, console: Console) -> PlannedStep:
    """Resolves a configured step on the way of `hmoe train`, up to where it would read data.

    Args:
      request: the command and its flags.
      console: prints lines for the user.

    Raises:
      ValueError: mesh, layout and sizes do not suit each other.
    """
    assert request.plan is not None
    platform = platforms.platform_of(request.plan.platform, gin_config.value("run.mesh_devices"))
    on_tpu = platform == platforms.TPU
    _say_platform(platform, request.plan.platform, console)
    caught: list[ModelSettings] = []
    T5Run(
        mode=configure.mode_of("plan"),
        model_dir=request.model_dir,
        say=console.say,
        types_of_tpus=on_tpu,
        estimator=functools.partial(_catch_settings, caught, console),
        arguments={
            "dataset_split": "train",
            "train_dataset_fn": _read_no_data,
            "train_model_fn": _train_nothing,
        },
    ).start()
    return PlannedStep(caught[0], on_tpu, _is_packed())


def _catch_settings(caught: list[ModelSettings], console: Console, **arguments: Any) -> None:
    """Takes the place of what builds the estimator, and needs none of the run's devices."""
    for name in ("tpu_job_name", "iterations_per_loop", "cluster"):
        del arguments[name]
    arguments["vocabulary"] = _without_files(arguments["vocabulary"])
    caught.append(make_settings(console.say, **arguments))


def _read_no_data(**unused: object) -> None:
    raise AssertionError("a plan reads no data")


def _train_nothing(*unused: object, **also_unused: object) -> None:
    """Takes the place of what trains."""


class _Sized:
    """As much of a vocabulary as the description of a model takes."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size


def _without_files(vocabulary: Vocabulary) -> Vocabulary:
    """Returns a vocabulary, or a pair, in which T5's own is replaced by what is known of it."""
    if isinstance(vocabulary, tuple):
        inputs, targets = vocabulary
        return (_without_files(inputs), _without_files(targets))
    if getattr(vocabulary, "sentencepiece_model_file", None) == t5.data.DEFAULT_SPM_PATH:
        return _Sized(_NUM_PIECES + vocabulary.extra_ids)
    return vocabulary


def _is_packed() -> bool:
    """Returns whether a sequence of the run's data may hold several examples.

    T5's own function packs unless gin forbids it. Of one of a user's own it is not known: plain
    sequences are the least that it returns.
    """
    dataset_fn = gin_config.value("run.train_dataset_fn")
    if dataset_fn is not None and not training_data.is_of_t5(dataset_fn):
        return False
    return gin_config.value("mesh_train_dataset_fn.pack", True)


def _say_what_is_planned(request: Request, console: Console) -> None:
    if not run_sources.describes_new_run(request):
        console.say(f"Planning the run in {request.model_dir} with its saved configuration")
    elif not (request.gin_file or request.data):
        console.say(f"Planning the default job ({run_sources.DEFAULT_RUN})")


def _say_platform(platform: str, asked: str | None, console: Console) -> None:
    what = "TPUs" if platform == platforms.TPU else "CPUs and GPUs"
    reason = "--platform"
    if asked is None:
        names = "names no devices" if platform == platforms.TPU else "names devices"
        reason = f"utils.run.mesh_devices {names}; --platform chooses another"
    console.say(f"Counting for {what} ({reason})")
