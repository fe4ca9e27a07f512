"""`hmoe split` and `hmoe merge`: the same model with variables in another form."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import gin
import numpy as np

from hmoe.compat.stack import tf
from hmoe.experts import split_merge
from hmoe.startup import path_checks, run_lock, saved_run
from hmoe.startup.command_line import command
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.storage import checkpoint_folder
from hmoe.t5.commands import configure, run_files
from hmoe.t5.sessions import checkpoints

Variables = dict[str, np.ndarray]


def split(request: Request, console: Console) -> None:
    """Writes the newest checkpoint with separate variables for each expert."""
    _rewrite(request, console, split_merge.split_experts, separate=True)


def merge(request: Request, console: Console) -> None:
    """Writes the newest checkpoint with all experts of a layer in one variable each."""
    _rewrite(request, console, split_merge.merge_experts, separate=False)


def _rewrite(
    request: Request,
    console: Console,
    function: Callable[[Variables], Variables],
    separate: bool,
) -> None:
    """Writes a model with its variables in another form, and the configuration for it.

    Raises:
      ValueError: the target has files already, or the variables already have that form.
    """
    target = request.output_dir
    assert target is not None, "the command line requires --output_dir"
    path = checkpoints.require_latest(request.model_dir, console.say)
    if tf.io.gfile.exists(target) and (
        not tf.io.gfile.isdir(target) or not checkpoint_folder.is_free(target, run_lock.FILES)
    ):
        path_checks.raise_not_empty(target)
    checkpoint_folder.clear_first_save(target)
    request = configure.configure_trained(request, console)
    before = checkpoints.read(path)
    after = function(before)
    with gin.unlock_config():
        gin.bind_parameter("hmoe.FeedForwardExperts.separate", separate)
    versions = saved_run.versions(request.model_dir)
    try:
        written = checkpoints.write(
            target,
            checkpoints.step_of(path),
            after,
            lambda: run_files.write(target, request, versions=versions),
        )
    except BaseException:
        # So that the same command can be given again.
        with contextlib.suppress(Exception):
            checkpoint_folder.clear_first_save(target)
        raise
    console.say(
        f"Rewrote the {len(before)} variables of {path} as {len(after)} variables of {written}, "
        f"without those of the optimizer. To answer: "
        f"{command('predict', model_dir=target)}"
    )
