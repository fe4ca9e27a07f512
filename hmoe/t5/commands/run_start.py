"""The start of a training run: a new one, or one that is resumed, and what changed since."""

from __future__ import annotations

import filecmp
import os
import shlex
from collections.abc import Callable
from typing import NamedTuple

import gin

from hmoe.startup import bindings, run_sources, saved_run
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.startup.saved_run import SavedRun
from hmoe.t5.commands import configure, gin_config, run_changes, run_files
from hmoe.t5.commands.run_changes import Change
from hmoe.t5.sessions import checkpoints


class RunStart(NamedTuple):
    """A training run that is configured and may begin.

    Attributes:
      request: the request, with flags that are not given filled in from the saved run.
      keep: writes the run's configuration to its folder; to be called with the first checkpoint
        that was trained with it, and not before.
    """

    request: Request
    keep: Callable[[], None]


def prepare(request: Request, console: Console) -> RunStart:
    """Configures a new run, or the one in `model_dir` if the request names neither gin nor data.

    Nothing is written.

    Raises:
      ValueError: a configuration is wrong, damaged or missing; or the run in the folder was trained
        with another one whose result would differ, and the request does not force it.
    """
    saved = _saved(request, console)
    request = _configure(request, console, saved)
    if request.train_steps is not None:
        _bind_train_steps(request.train_steps)
    text = gin.config_str()
    newest = None if request.overwrite else checkpoints.latest(request.model_dir)
    if newest is not None:
        if saved is not None:
            _check_changes(request, console, _changes(request, saved, text), newest)
        _say_where_data_begins(console)
    step = 0 if newest is None else checkpoints.step_of(newest)
    earlier = saved_run.versions(request.model_dir) if step else []
    versions = run_files.with_present_versions(earlier, step)
    described = run_files.describe(request, text, versions)
    return RunStart(request, lambda: described.write(request.model_dir))


def _saved(request: Request, console: Console) -> SavedRun | None:
    """Reads the saved run; None if there is none, or if another is described in its place."""
    is_described = bool(request.gin_file or request.data)
    if is_described and request.overwrite:
        return None
    try:
        return saved_run.read(request.model_dir)
    except saved_run.DamagedFileError as error:
        if not is_described:
            raise
        console.say(
            f"Warning: {error.problem}: what this run changes of the one in the folder is not known"
        )
        return None


def _configure(request: Request, console: Console, saved: SavedRun | None) -> Request:
    """Reads the configuration of the run, which `run_sources.of` has found before on this machine.

    Returns:
      The request, with flags that are not given filled in from the saved run.
    """
    folder = request.model_dir
    if request.gin_file or request.data:
        configure.configure_new(request, console)
        return request
    if saved is None:
        run_sources.check_may_begin(request)
        configure.configure_new(request, console)
        return request
    if request.overwrite:
        console.say(f"Beginning the run in {folder} anew with its saved configuration")
    else:
        console.say(f"Taking up the run in {folder} with its saved configuration")
    return configure.configure_trained(request, console)


def _bind_train_steps(steps: int) -> None:
    """Binds `--train_steps` where the run's configuration has the number, so that it is kept."""
    bound = repr(gin_config.bound("run.train_steps"))
    # A module's constant stays as it is.
    is_macro = bound.startswith("%") and not gin_config.is_constant(bound[1:])
    name = bound[1:] if is_macro else "utils.run.train_steps"
    with gin.unlock_config():
        gin.parse_config(f"{name} = {steps}")


def _changes(request: Request, saved: SavedRun, text: str) -> list[Change]:
    flags = {name: run_files.kept_flags(request).get(name) for name in saved_run.PATHS}
    if _are_alike(saved.flags.get("vocabulary"), flags["vocabulary"]):
        flags["vocabulary"] = saved.flags["vocabulary"]
    old, new = (bindings.parse(each) for each in (saved.trained_with, text))
    return [
        *run_changes.of_flags(saved.flags, flags),
        *run_changes.changes(old, new, old_is_whole=saved.is_whole),
    ]


def _are_alike(kept: str | None, given: str | None) -> bool:
    """Returns whether the copy of a vocabulary that a run keeps is the same as the one given."""
    if not (kept and given and os.path.isfile(kept) and os.path.isfile(given)):
        return False
    return filecmp.cmp(kept, given, shallow=False)


def _check_changes(request: Request, console: Console, found: list[Change], newest: str) -> None:
    """Lists what changed for the user; raises ValueError for changes that need to be forced."""
    serious = run_changes.serious(found)
    if serious and not request.force:
        raise ValueError(
            f"{newest} was trained with another configuration, and what comes out would not be "
            f"that run's own:\n{run_changes.listed(serious)}\nLeave these out to resume it "
            f"(hmoe train --model_dir={shlex.quote(request.model_dir)}), name another --model_dir "
            "for a run of its own, or go on in spite of them with --force"
        )
    if found:
        console.say(f"Changed since {newest} was trained:\n{run_changes.listed(found)}")


def _say_where_data_begins(console: Console) -> None:
    """Warns of a resume that does not go on with the examples that would have come next."""
    if not gin_config.value("run.skip_seen_data"):
        console.say(
            "Warning: the data begins anew, since utils.run.skip_seen_data is not set. Bind it to "
            "True, and mesh_train_dataset_fn.seed to a number, before a run begins, for a resume "
            "to go on with the examples that would have come next"
        )
    elif gin_config.value("mesh_train_dataset_fn.seed") is None:
        console.say(
            "Warning: the data comes in another order, since mesh_train_dataset_fn.seed is not "
            "set: some examples come twice and others not at all"
        )
