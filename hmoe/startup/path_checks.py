"""Checks of files and folders that a command needs, made before TensorFlow is imported.

The import takes seconds, and a user with a mistyped name need not wait for it. Only what is certain
is reported here; names on other machines ("gs://...") are left to the commands.
"""

from __future__ import annotations

import os
from typing import NoReturn

from hmoe.startup import answer_files, run_lock
from hmoe.startup.command_line import command
from hmoe.startup.request import Request
from hmoe.storage import checkpoint_files, checkpoint_folder
from hmoe.storage.local_files import is_elsewhere

# Commands that read the newest checkpoint, whatever their gin files say.
_USE_CHECKPOINT = ("predict", "score", "export", "split", "merge")


def check(request: Request) -> None:
    """Raises ValueError if a file or folder of the request is not as its command needs it."""
    if request.command in _USE_CHECKPOINT or (request.command == "eval" and not request.gin_file):
        _check_model_dir(request.model_dir)
    if request.command == "train" and not request.overwrite:
        _check_some_whole(request.model_dir)
    if request.output_dir:
        check_new_folder(request.output_dir)
    answer_files.check(request)


def _may_exist(path: str) -> bool:
    return is_elsewhere(path) or os.path.exists(path)


def _check_model_dir(model_dir: str) -> None:
    if not is_elsewhere(model_dir) and not _check_some_whole(model_dir):
        raise_no_checkpoint(model_dir, os.path.isdir(model_dir))


def _check_some_whole(model_dir: str) -> str | None:
    """Returns the newest whole checkpoint; raises ValueError if there are only damaged ones."""
    if is_elsewhere(model_dir):
        return None
    newest = checkpoint_files.newest_whole(model_dir)
    checkpoint_files.check_some_whole(model_dir, newest)
    return newest.path


def raise_no_checkpoint(model_dir: str, folder_exists: bool) -> NoReturn:
    """Raises ValueError for a folder of checkpoints that is empty or does not exist."""
    what = "holds no checkpoint" if folder_exists else "does not exist"
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
