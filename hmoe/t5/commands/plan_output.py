"""Shows a plan as the flags of `hmoe plan` ask for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from hmoe.plan import demand as demand_lib
from hmoe.plan import hardware as hardware_lib
from hmoe.plan.as_json import as_json
from hmoe.plan.costs import Plan
from hmoe.plan.demand import MULTIPLES, Demand
from hmoe.plan.hardware import Hardware
from hmoe.plan.report import report
from hmoe.plan.search_report import search_as_json, search_report
from hmoe.plan.time_model import StepTime, step_time
from hmoe.startup import console as console_lib
from hmoe.startup.console import Console
from hmoe.startup.errors import RunFailedError
from hmoe.startup.request import Request
from hmoe.t5.commands import plan_plots
from hmoe.t5.commands.plan_search import Searched, search_meshes
from hmoe.t5.graphs import step_formulas, step_proof
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.named_step import NamedStep
from hmoe.t5.graphs.step_formulas import LayerFormula
from hmoe.t5.graphs.step_proof import Comparison

# The hardware that a search and pictures are for, if none is named.
_TPU, _OTHER = "tpu-v3", hardware_lib.THIS_MACHINE


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


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is shown.

    Attributes:
      plan: the costs of a step.
      times: its modelled time; None if no hardware was named.
      proof: the costs, counted in other ways; None if that was not asked for.
      formulas: the closed formulas of the mixture layers; None if they were not asked for.
      demand: what training in a folder measured; None if no folder was named.
      hardware: the hardware of a search.
      searched: what a search found; None if that was not asked for.
    """

    plan: Plan
    times: StepTime | None
    proof: Sequence[Comparison] | None
    formulas: Sequence[LayerFormula] | None
    demand: Demand | None
    hardware: Hardware | None
    searched: Searched | None


def show(
    request: Request, console: Console, found: Plan, step: NamedStep, planned: PlannedStep
) -> None:
    """Prints a plan as the flags ask for it.

    Args:
      request: the command and its flags.
      console: prints lines for the user.
      found: the plan.
      step: the graph that was planned.
      planned: the step that was planned.

    Raises:
      ValueError: there is no such hardware.
      RunFailedError: the plan is to be proved, and the graph that training would run differs.
    """
    flags = request.plan
    assert flags is not None
    shown = _shown(request, console, found, step, planned)
    if flags.json:
        console.answer(json.dumps(_as_json(shown), indent=1))
    else:
        for line in _lines(shown, styled=console.answers_reach_a_terminal):
            console.answer(line)
    if flags.plot is not None:
        _draw(flags.plot, console, shown, planned)
    _check(shown.proof or ())


def _shown(
    request: Request, console: Console, found: Plan, step: NamedStep, planned: PlannedStep
) -> Shown:
    flags, model_dir = request.plan, request.model_dir
    assert flags is not None
    hardware = flags.hardware and hardware_lib.find(flags.hardware, found.devices)
    formulas, proof = [], None
    if flags.explain or flags.prove:
        formulas = step_formulas.formulas(step, planned.settings, found)
    if flags.prove:
        proof = [
            *step_formulas.compare(formulas, found),
            *_proof(console, found, step, planned),
        ]
    searched, of_search = None, None
    if flags.search:
        of_search = hardware_lib.find(flags.hardware or _default_hardware(planned), flags.search)
        console.say(f"Searching the meshes and layouts of {flags.search} devices ...")
        searched = _searched(flags.search, of_search, planned)
    times = step_time(found, hardware) if hardware else None
    demand = demand_lib.demand(model_dir) if flags.reads_model_dir else None
    explained = formulas if flags.explain else None
    return Shown(found, times, proof, explained, demand, of_search, searched)


def _draw(folder: str, console: Console, shown: Shown, planned: PlannedStep) -> None:
    console.say("Drawing ...")
    times = shown.times
    if times is None:
        name = _default_hardware(planned)
        times = step_time(shown.plan, hardware_lib.find(name, shown.plan.devices))
    paths = plan_plots.draw(folder, shown.plan, times, planned.settings, packed=planned.packed)
    console.say(f"Drew {', '.join(paths)}")


def _default_hardware(planned: PlannedStep) -> str:
    return _TPU if planned.on_tpu else _OTHER


def _searched(devices: int, hardware: Hardware, planned: PlannedStep) -> Searched:
    def seconds(plan: Plan) -> float:
        return step_time(plan, hardware).one_after_the_other

    return search_meshes(
        planned.settings,
        devices,
        seconds,
        hardware.memory,
        on_tpu=planned.on_tpu,
        packed=planned.packed,
    )


def _lines(shown: Shown, *, styled: bool) -> list[str]:
    lines = report(shown.plan, shown.times, styled=styled).splitlines()
    if shown.demand is not None:
        slots = {
            level.name: level.slots_per_token
            for layer in shown.plan.layers
            for level in layer.levels
        }
        lines += ["", *shown.demand.table(slots, styled=styled).splitlines()]
    if shown.formulas is not None:
        lines += _explained(shown.formulas)
    if shown.proof is not None:
        lines += _proof_table(shown.proof)
    if shown.searched is not None and shown.hardware is not None:
        own, flat = shown.searched.own, shown.searched.flat
        lines += ["", *search_report(own, flat, shown.hardware, styled=styled).splitlines()]
    return lines


def _explained(formulas: Sequence[LayerFormula]) -> list[str]:
    """Returns the formulas of each layer; layers of equal ones stand together."""
    alike: dict[str, list[str]] = {}
    for each in formulas:
        alike.setdefault(each.text(), []).append(each.name)
    lines = []
    for text, names in alike.items():
        others = f" and {len(names) - 1} like it" if len(names) > 1 else ""
        lines += ["", f"Formulas of {names[0]}{others}", *text.splitlines()]
    return lines


def _as_json(shown: Shown) -> dict[str, Any]:
    found = as_json(shown.plan)
    if shown.times is not None:
        times = shown.times
        found["time"] = {
            **dataclasses.asdict(times),
            "overlapping": times.overlapping,
            "one_after_the_other": times.one_after_the_other,
            "bound_by": times.bound_by,
        }
    if shown.formulas is not None:
        found["formulas"] = {each.name: each.text() for each in shown.formulas}
    if shown.demand is not None:
        found["demand"] = demand_as_json(shown.demand)
    if shown.proof is not None:
        found["proof"] = [_comparison(each) for each in shown.proof]
    if shown.searched is not None:
        own, flat = shown.searched.own, shown.searched.flat
        found["search"] = {"own": search_as_json(own), "flat": flat and search_as_json(flat)}
    return found


def _proof(
    console: Console, found: Plan, step: NamedStep, planned: PlannedStep
) -> list[Comparison]:
    console.say("Lowering the graph that training would run, to compare ...")
    return step_proof.compare(
        step, planned.settings, found.costs, on_tpu=planned.on_tpu, packed=planned.packed
    )


def _check(proof: Sequence[Comparison]) -> None:
    unequal = [each for each in proof if not each.is_equal]
    if unequal:
        raise RunFailedError(
            f"the plan differs from the graph that training would run, in {len(unequal)} of "
            f"{len(proof)} numbers; the first is {unequal[0].what}: "
            f"{unequal[0].planned:,} planned, {unequal[0].lowered:,} in the graph"
        )


def _proof_table(proof: Sequence[Comparison]) -> list[str]:
    rows = [
        (each.what, f"{each.planned:,}", f"{each.lowered:,}", "yes" if each.is_equal else "NO")
        for each in proof
    ]
    return ["", *console_lib.table(("proof, of one device", "planned", "lowered", "equal"), rows)]


def demand_as_json(found: Demand) -> dict[str, Any]:
    """Returns the demand that training measured, for other programs."""
    return {
        "path": found.path,
        "step": found.step,
        "levels": {
            level.name: {
                "unplaced": level.unplaced,
                "dropped_at_least": {f"{each:g}": level.dropped(each) for each in MULTIPLES},
            }
            for level in found.levels
        },
    }


def _comparison(each: Comparison) -> dict[str, Any]:
    return {**dataclasses.asdict(each), "is_equal": each.is_equal}
