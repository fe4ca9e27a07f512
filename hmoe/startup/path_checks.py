"""What a command needs and this machine must have, checked before TensorFlow is imported.

That takes seconds, and a user with a mistyped name need not wait for it. Only what is certain is
said here: names on other machines ("gs://...") are left to the commands.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import NoReturn

from hmoe.startup import gin_files

# Commands that read the newest checkpoint, whatever their gin files say.
_USE_CHECKPOINT = ("predict", "score", "export", "split", "merge")


def check(flags: argparse.Namespace) -> None:
    """Raises ValueError if a file or folder of the command line is not as the command needs it.

    Args:
      flags: of the command line, with `model_dir` filled in.
    """
    if flags.command in _USE_CHECKPOINT or (flags.command == "eval" and not flags.gin_file):
        _check_model_dir(flags.model_dir)
    if getattr(flags, "output_dir", None):
        check_new_folder(flags.output_dir)
    for flag in ("data", "validation_data", "vocabulary"):
        if getattr(flags, flag, None):
            check_file(getattr(flags, flag))
    folders = gin_files.search_folders(flags.gin_location_prefix)
    if not any(map(is_elsewhere, [*flags.gin_file, *folders])):
        for path in flags.gin_file:
            gin_files.check_exists(path, ["", *folders])
    for flag in ("input_file", "target_file"):
        check_exists(flag, getattr(flags, flag, None), _may_exist)


def check_exists(flag: str, path: str | None, exists: Callable[[str], bool]) -> None:
    """Raises ValueError if a flag names a file that is not there."""
    if path and not exists(path):
        raise ValueError(f"--{flag} {path!r} does not exist")


def _may_exist(path: str) -> bool:
    return is_elsewhere(path) or os.path.exists(path)


def is_elsewhere(path: str) -> bool:
    """Whether a path names another machine or store, which TensorFlow may reach."""
    return "://" in path


def _check_model_dir(model_dir: str) -> None:
    # TensorFlow writes this file beside checkpoints, and finds the newest by it.
    if not _may_exist(model_dir) or not _may_exist(os.path.join(model_dir, "checkpoint")):
        raise_no_checkpoint(model_dir, os.path.isdir(model_dir))


def raise_no_checkpoint(model_dir: str, is_there: bool) -> NoReturn:
    """Raises ValueError for a folder of checkpoints that has none, or does not exist."""
    what = "holds no checkpoint" if is_there else "does not exist"
    raise ValueError(
        f"model_dir {model_dir!r} {what}; train first (hmoe train --model_dir={model_dir}), "
        "or name the folder of a trained model with --model_dir"
    )


def check_new_folder(output_dir: str) -> None:
    """Raises ValueError if the folder is there and not empty."""
    if is_elsewhere(output_dir) or not os.path.exists(output_dir):
        return
    if not os.path.isdir(output_dir) or os.listdir(output_dir):
        raise_not_empty(output_dir)


def raise_not_empty(output_dir: str) -> NoReturn:
    """Raises ValueError for a folder to write that has files already."""
    raise ValueError(
        f"--output_dir {output_dir!r} is there already and not empty; name a new folder"
    )


def check_file(path: str) -> None:
    """Raises a ValueError unless the path is a file that can be read and is not empty."""
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
