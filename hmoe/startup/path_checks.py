"""Checks of files and folders that a command needs, made before TensorFlow is imported.

The import takes seconds, and a user with a mistyped name need not wait for it. Only what is certain
is reported here; names on other machines ("gs://...") are left to the commands.
"""

from __future__ import annotations

import os
from typing import NoReturn

from hmoe.startup import answer_files, model_folders, run_lock
from hmoe.startup.command_line import command
from hmoe.startup.request import Request
from hmoe.startup.saved_run import METRICS_FILE
from hmoe.storage import checkpoint_files, checkpoint_folder
from hmoe.storage.local_files import is_elsewhere

# Commands that read the newest checkpoint, whatever their gin files say.
_USE_CHECKPOINT = ("predict", "score", "trace", "ablate", "export", "split", "merge")


def check(request: Request) -> None:
    """Raises ValueError if a file or folder of the request is not as its command needs it."""
    folder = request.model_dir
    needs_some = _needs_checkpoint(request) and not is_elsewhere(folder)
    if needs_some and not checkpoint_files.saved_steps(folder):
        raise_no_checkpoint(folder, os.path.isdir(folder))
    if request.output_dir:
        check_new_folder(request.output_dir)
    if request.plan and request.plan.reads_model_dir:
        _check_has_metrics(folder)
    answer_files.check(request)


def check_some_whole(request: Request) -> None:
    """Raises ValueError if the folder of a model has checkpoints and all of them are damaged."""
    folder = request.model_dir
    resumes = request.command == "train" and not request.overwrite
    if (resumes or _needs_checkpoint(request)) and not is_elsewhere(folder):
        checkpoint_files.check_some_whole(folder, checkpoint_files.newest_whole(folder))


def _needs_checkpoint(request: Request) -> bool:
    return request.command in _USE_CHECKPOINT or (
        request.command == "eval" and not request.gin_file
    )


def _check_has_metrics(folder: str) -> None:
    """Raises ValueError unless a run has left the metrics that show its demand."""
    if is_elsewhere(folder) or os.path.isfile(os.path.join(folder, METRICS_FILE)):
        return
    if not os.path.isdir(folder):
        raise_no_checkpoint(folder, folder_exists=False)
    raise ValueError(
        f"model_dir {folder!r} has no {METRICS_FILE}, from which a plan takes the demand that "
        f"training measured; train first ({command('train', model_dir=folder)}), name the folder "
        "of another run, or leave --model_dir out"
    )


def raise_no_checkpoint(model_dir: str, folder_exists: bool) -> NoReturn:
    """Raises ValueError for a folder of checkpoints that is empty or does not exist."""
    meant = model_folders.meant(model_dir)
    what = "holds no checkpoint" if folder_exists else "does not exist"
    if meant is not None:
        raise ValueError(f"model_dir {model_dir!r} {what}; {meant}")
    raise ValueError(
        f"model_dir {model_dir!r} {what}; train first "
        f"({command('train', model_dir=model_dir)}), "
        "or name the folder of a trained model with --model_dir"
    )


def check_new_folder(output_dir: str) -> None:
    """Raises ValueError if a folder to write exists and is not empty."""
    if is_elsewhere(output_dir) or not os.path.exists(output_dir):
        return
    if not os.path.isdir(output_dir) or not checkpoint_folder.is_free(output_dir, run_lock.FILES):
        raise_not_empty(output_dir)


def raise_not_empty(output_dir: str) -> NoReturn:
    """Raises ValueError for a folder to write that already has files."""
    raise ValueError(f"--output_dir {output_dir!r} exists and is not empty; name a new folder")
