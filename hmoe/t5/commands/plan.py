"""`hmoe plan`: counts what a training step would cost on each device, without running it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

import t5.data

from hmoe.plan.as_json import as_json
from hmoe.plan.costs import Plan
from hmoe.startup import console as console_lib
from hmoe.startup import platforms, run_sources
from hmoe.startup.console import Console
from hmoe.startup.errors import RunFailedError
from hmoe.startup.request import Request
from hmoe.t5.commands import configure, gin_config
from hmoe.t5.commands.t5_run import T5Run, make_settings
from hmoe.t5.data import training_data
from hmoe.t5.graphs import named_step, step_plan, step_proof
from hmoe.t5.graphs.model_settings import ModelSettings, Vocabulary
from hmoe.t5.graphs.named_step import NamedStep
from hmoe.t5.graphs.step_proof import Comparison

# Pieces of T5's own vocabulary, which lies on another machine.
_NUM_PIECES = 32_000


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A training step that is resolved as training would resolve it.

    Attributes:
      settings: the settings of the model and the run.
      on_tpu: whether it is counted for TPUs.
      packed: whether a sequence may hold several examples.
    """

    settings: ModelSettings
    on_tpu: bool
    packed: bool


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
    show(request, console, found, step, planned)


def show(
    request: Request, console: Console, found: Plan, step: NamedStep, planned: PlannedStep
) -> None:
    """Prints a plan as the flags ask for it.

    Raises:
      RunFailedError: the plan is to be proved, and the graph that training would run differs.
    """
    flags = request.plan
    assert flags is not None
    proof = _proof(console, found, step, planned) if flags.prove else None
    if flags.json:
        proved = {} if proof is None else {"proof": [_comparison(each) for each in proof]}
        console.answer(json.dumps({**as_json(found), **proved}, indent=1))
    else:
        for line in [*tables(found), *(_proof_table(proof) if proof is not None else [])]:
            console.answer(line)
    unequal = [each for each in proof or [] if not each.is_equal]
    if unequal:
        raise RunFailedError(
            f"the plan differs from the graph that training would run, in {len(unequal)} of "
            f"{len(proof or [])} numbers; the first is {unequal[0].what}: "
            f"{unequal[0].planned:,} planned, {unequal[0].lowered:,} in the graph"
        )


def tables(found: Plan) -> list[str]:
    """Returns the lines of the tables of a plan."""
    # OWNER: to be filled in at the merge with hmoe/plan/report.py.
    raise NotImplementedError


def _proof(
    console: Console, found: Plan, step: NamedStep, planned: PlannedStep
) -> list[Comparison]:
    console.say("Lowering the graph that training would run, to compare ...")
    return step_proof.compare(
        step, planned.settings, found.costs, on_tpu=planned.on_tpu, packed=planned.packed
    )


def _proof_table(proof: Sequence[Comparison]) -> list[str]:
    rows = [
        (each.what, f"{each.planned:,}", f"{each.lowered:,}", "yes" if each.is_equal else "NO")
        for each in proof
    ]
    return ["", *console_lib.table(("proof, of one device", "planned", "lowered", "equal"), rows)]


def _comparison(each: Comparison) -> dict[str, Any]:
    return {**dataclasses.asdict(each), "is_equal": each.is_equal}


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
