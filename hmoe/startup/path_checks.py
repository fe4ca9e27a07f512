"""Checks of files and folders that a command needs, made before TensorFlow is imported.

The import takes seconds, and a user with a mistyped name need not wait for it. Only what is certain
is reported here; names on other machines ("gs://...") are left to the commands.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

from hmoe.startup import gin_files
from hmoe.startup.command_line import command
from hmoe.startup.request import Request

# Commands that read the newest checkpoint, whatever their gin files say.
_USE_CHECKPOINT = ("predict", "score", "export", "split", "merge")


def check(request: Request) -> None:
    """Raises ValueError if a file or folder of the request is not as its command needs it."""
    if request.command in _USE_CHECKPOINT or (request.command == "eval" and not request.gin_file):
        _check_model_dir(request.model_dir)
    if request.output_dir:
        check_new_folder(request.output_dir)
    for path in (request.data, request.validation_data, request.vocabulary):
        if path:
            check_file(path)
    folders = gin_files.search_folders(request.gin_location_prefix)
    if not any(map(is_elsewhere, [*request.gin_file, *folders])):
        for path in request.gin_file:
            gin_files.check_exists(path, ["", *folders])
    check_exists("input_file", request.input_file, _may_exist)
    check_exists("target_file", request.target_file, _may_exist)


def check_exists(flag: str, path: str | None, exists: Callable[[str], bool]) -> None:
    """Raises ValueError if a flag names a file that does not exist."""
    if path and not exists(path):
        raise ValueError(f"--{flag} {path!r} does not exist")


def _may_exist(path: str) -> bool:
    return is_elsewhere(path) or os.path.exists(path)


def is_elsewhere(path: str) -> bool:
    """Returns whether a path names another machine or store, which TensorFlow may reach."""
    return "://" in path


def _check_model_dir(model_dir: str) -> None:
    # TensorFlow writes this file beside checkpoints, and finds the newest by it.
    if not _may_exist(model_dir) or not _may_exist(os.path.join(model_dir, "checkpoint")):
        raise_no_checkpoint(model_dir, os.path.isdir(model_dir))


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
    if not os.path.isdir(output_dir) or os.listdir(output_dir):
        raise_not_empty(output_dir)


def raise_not_empty(output_dir: str) -> NoReturn:
    """Raises ValueError for a folder to write that already has files."""
    raise ValueError(f"--output_dir {output_dir!r} exists and is not empty; name a new folder")


def check_file(path: str) -> None:
    """Raises ValueError unless a path names a file that can be read and is not empty."""
    if not os.path.exists(path):
        raise ValueError(f"{path}: there is no such file (looked in {os.getcwd()})")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a directory; give the file in it that holds the data")
    try:
        with open(path, "rb") as file:
            first = file.read(1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not first:
        raise ValueError(f"{path} is empty")
