"""Configures a command: imports the user's modules, reads gin, and takes up saved runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

import t5

from hmoe.startup import gin_reading, run_sources, saved_run
from hmoe.startup.console import Console
from hmoe.startup.gin_checks import macros
from hmoe.startup.gin_checks.modes import MODES, refuse_mode
from hmoe.startup.request import Request
from hmoe.t5.commands import gin_config, user_modules
from hmoe.t5.data import files as data_files
from hmoe.t5.sessions import checkpoints

# Commands that read the user's own data; the others use a model that was trained with it.
READ_DATA = ("train", "eval")


def configure_new(request: Request, console: Console) -> None:
    """Configures a training run that begins: the user's gin files, or the default job."""
    bindings = [*_data_bindings(request, console), *request.gin_param]
    _configure(request, run_sources.of_new_run(request), bindings)


def configure_trained(request: Request, console: Console) -> Request:
    """Configures from the user's gin files, or else from what training saved in `model_dir`.

    Args:
      request: the command and its flags.
      console: prints lines for the user.

    Returns:
      The request, with flags that are not given filled in from the saved run.

    Raises:
      ValueError: there are no gin files, and `model_dir` has none either.
    """
    if request.gin_file:
        _configure(request, request.gin_file, request.gin_param)
        return request
    saved = saved_run.read(request.model_dir)
    if saved is None:
        checkpoints.require_latest(request.model_dir)
        run_sources.raise_no_configuration(request.model_dir)
    for note in saved.notes:
        console.say(note)
    request = saved_run.fill_in(request, saved)
    if request.command in READ_DATA:
        check_saved_data(request)
    bindings = [*_data_bindings(request, console), *request.gin_param]
    _configure(request, saved.files, bindings, saved.text)
    return request


def check_saved_data(request: Request) -> None:
    """Raises ValueError if a file that a model was trained with is no longer where it was."""
    for field in ("data", "validation_data"):
        path = getattr(request, field)
        if path and not os.path.exists(path):
            raise ValueError(
                f"{path}, which the model in {request.model_dir} was trained with, does not exist; "
                f'put it back, or write where it is as "{field}" into '
                f"{os.path.join(request.model_dir, saved_run.FLAGS_FILE)}"
            )


def configure_plan(request: Request, console: Console) -> Request:
    """Configures the training step that is planned: of a run that begins, or of a saved one.

    A run that names no task has T5's own vocabulary.

    Args:
      request: the command and its flags.
      console: prints lines for the user.

    Returns:
      The request, with flags that are not given filled in from the saved run.

    Raises:
      ValueError: there are no gin files nor data, and `model_dir` has no configuration either.
    """
    if run_sources.describes_new_run(request):
        configure_new(request, console)
        return request
    return configure_trained(request, console)


def _data_bindings(request: Request, console: Console) -> list[str]:
    """Registers the user's own data, if any, and returns the gin bindings that select it."""
    if not request.data:
        return []
    reads = request.command in READ_DATA
    name = data_files.register(
        request.data,
        request.validation_data,
        request.vocabulary,
        request.skip_bad_lines,
        request.data_format,
        read_now=reads,
    )
    if reads:
        console.say(data_files.report(name).summary())
    return [f"MIXTURE_NAME = {name!r}"]


def _configure(
    request: Request, files: Sequence[str], bindings: Sequence[str], text: str = ""
) -> None:
    """Imports the user's modules and reads gin, as T5's command does.

    Args:
      request: the command and its flags.
      files: gin files.
      bindings: single lines of gin.
      text: what is read in place of a saved file that is lost.
    """
    modules = request.module_import
    if modules is None:
        modules = ("t5.data.mixtures",) if request.gin_file else ()
    # A file that cannot be read ends the command before any module runs.
    reading = gin_reading.read(files, [text, *bindings], request.gin_location_prefix)
    user_modules.import_all(modules)
    if request.t5_tfds_data_dir:
        t5.data.set_tfds_data_dir_override(request.t5_tfds_data_dir)
    skip = request.skip_all_gin_unknowns or request.additional_deprecated_gin_references
    if not request.skip_all_gin_unknowns:
        user_modules.import_those_of_gin(reading)
    absent = _absent(reading) if request.plan else []
    bindings = [*(f"{name} = None" for name in absent), *bindings]
    gin_config.read(files, bindings, request.gin_location_prefix, skip, text)
    if reading.whole and request.gin_file and not request.skip_all_gin_unknowns:
        macros.check_defined(
            reading,
            is_given=lambda name: name in absent or gin_config.is_constant(name),
            needs_task=False,
        )
    gin_config.finish()
    t5.data.add_global_cache_dirs(list(request.additional_task_cache_dirs))


def _absent(reading: gin_reading.Reading) -> list[str]:
    """Returns the macros that a plan does without, of those that nothing defines."""
    return [
        name
        for name in macros.NOT_PLANNED
        if name not in reading.macros and not gin_config.is_constant(name)
    ]


def mode_of(command: str) -> str:
    """Returns the mode of `utils.run` for a command, which gin may choose among the command's own.

    Raises:
      ValueError: gin chooses a mode of another command.
    """
    asked = gin_config.value("run.mode")
    refuse_mode(command, asked, "gin: utils.run.mode")
    return asked if asked in MODES[command] else MODES[command][0]


def newest_checkpoint() -> dict[str, int]:
    """Returns the argument of `utils.run` for the newest checkpoint, unless gin names another."""
    is_bound = gin_config.value("run.eval_checkpoint_step") is not None
    return {} if is_bound else {"eval_checkpoint_step": -1}


def held_out_data() -> dict[str, str]:
    """Returns the argument of `utils.run` for held-out data, unless gin names other data."""
    is_bound = gin_config.value("run.dataset_split", "train") != "train"
    return {} if is_bound else {"dataset_split": "validation"}
