"""Checks the configuration of a command before TensorFlow is loaded."""

from __future__ import annotations

import os

from hmoe.startup import platforms, run_sources, saved_flags, saved_run
from hmoe.startup.gin_checks import (
    arguments,
    imports,
    input_files,
    macros,
    master,
    mesh,
    modes,
    names,
    processes,
    run_arguments,
    scopes,
)
from hmoe.startup.gin_reading import Reading, parts
from hmoe.startup.request import Request
from hmoe.storage import checkpoint_files
from hmoe.storage.local_files import is_elsewhere

# Commands that build a model, and need a mesh for it.
_BUILD = ("train", "eval", "predict", "score", "export", "plan", "trace", "ablate")
_STEP = "mesh_tensorflow.transformer.utils.run.eval_checkpoint_step"


def check(request: Request) -> list[str]:
    """Checks gin files, the lines of `--gin_param`, and the modules that are to be imported.

    Returns:
      A sentence for each binding of the user's own that has no effect.

    Raises:
      ValueError: something is wrong, or has no effect and the request is strict.
    """
    given, request = request, saved_flags.fill_in(request)
    reading = run_sources.read(request)
    modules = request.module_import or ()
    skip_unknown = request.skip_all_gin_unknowns
    imports.check(reading, modules, _asker(given), skip_unknown=skip_unknown)
    if reading is None:
        return []
    built = scopes.Built(reading)
    _check_values(request, reading, built)
    _check_step(request, reading)
    shared = processes.check(reading, request)
    warnings = _without_effect(request, reading, built) + shared
    if warnings and request.strict:
        raise ValueError("\n".join([*warnings, "--strict makes this an error"]))
    return warnings


def check_master(request: Request) -> None:
    """Raises ValueError if the configuration names an address that nobody answers.

    This connects to the address, which a saved configuration may name: see `model_imports`.
    """
    reading = run_sources.read(saved_flags.fill_in(request))
    if reading is not None and request.command in master.COMMANDS:
        master.check(reading)


def _asker(request: Request) -> str:
    """Returns how messages name the place that asks for the modules to import first."""
    if request.module_import:
        return "--module_import"
    return f"{os.path.join(request.model_dir, saved_run.FLAGS_FILE)}: module_import"


def _check_values(request: Request, reading: Reading, built: scopes.Built) -> None:
    on_tpu = request.machine.tpu is not None
    if not request.skip_all_gin_unknowns:
        names.check(reading)
    modes.check_mode(reading, request.command)
    if reading.whole:
        if _is_closed(request, reading):
            given = [macros.TASK] if request.data else []
            given += macros.NOT_PLANNED if request.plan else ()
            needs_task = request.command in ("train", "eval", "trace", "ablate")
            macros.check_defined(reading, is_given=given.__contains__, needs_task=needs_task)
        if request.command in _BUILD:
            modes.check_parts(reading, request.command, on_tpu=on_tpu)
    if request.command == "score":
        modes.check_score(reading, request.input_file, request.target_file)
    arguments.check(reading)
    run_arguments.check(reading)
    if built.incomplete:
        raise ValueError(built.incomplete[0])
    mesh.check(
        reading,
        has_experts=built.has_layers,
        closed=_is_closed(request, reading),
        has_devices=not on_tpu and request.workers is None and not _is_planned_for_tpu(request),
    )
    input_files.check(reading, request)


def _is_planned_for_tpu(request: Request) -> bool:
    return request.plan is not None and request.plan.platform == platforms.TPU


def _is_closed(request: Request, reading: Reading) -> bool:
    """Returns whether no module of the user's own could define what gin files name."""
    return not request.module_import and not imports.foreign(reading.imports)


def _without_effect(request: Request, reading: Reading, built: scopes.Built) -> list[str]:
    if not reading.whole:
        return []
    own_code = None
    if not _is_closed(request, reading):
        modules = [i.module for i in imports.foreign(reading.imports)]
        own_code = "\n".join(imports.sources([*(request.module_import or ()), *modules]))
    return [
        *macros.unread(reading, own_code),
        *built.unused(own_code),
        *run_arguments.replaced(reading),
    ]


def _check_step(request: Request, reading: Reading) -> None:
    """Raises ValueError if the checkpoint of a step is asked for that is not there, or damaged."""
    if request.command in ("train", "plan") or is_elsewhere(request.model_dir):
        return
    for step in parts(reading.literal(_STEP)):
        if isinstance(step, int) and step >= 0:
            checkpoint_files.check_step(request.model_dir, step)
            checkpoint_files.require_whole(request.model_dir, step)
