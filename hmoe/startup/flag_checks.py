"""Flags whose values show by themselves, or by the files that they name, that they cannot work."""

from __future__ import annotations

import dataclasses
import os

from hmoe.startup import answer_files
from hmoe.startup.request import Request
from hmoe.storage.local_files import (
    check_can_be_written,
    check_folder,
    check_readable,
    is_elsewhere,
)


def check(request: Request) -> None:
    """Raises ValueError for a flag that cannot work."""
    _check_text(request)
    _check_not_empty(request)
    if request.train_steps is not None and request.train_steps < 1:
        raise ValueError(
            f"--train_steps is {request.train_steps}; it must be an integer of at least 1"
        )
    _check_folders(request)
    _check_inputs(request)
    _check_outputs(request)


def _check_text(request: Request) -> None:
    """Refuses bytes of the command line that are not UTF-8, which Python keeps as surrogates."""
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        for each in value if isinstance(value, tuple) else [value]:
            if not isinstance(each, str):
                continue
            try:
                each.encode("utf-8")
            except UnicodeEncodeError:
                shown = each.encode("utf-8", "surrogateescape")
                flag = "the text" if field.name == "text" else f"--{field.name}"
                raise ValueError(f"{flag} is not in UTF-8: {shown!r}") from None
            if "\0" in each:
                raise ValueError(f"--{field.name} has a zero byte: {each!r}")


def _check_not_empty(request: Request) -> None:
    """Refuses empty flags, such as of a shell's variable that is not set.

    Taken for flags that are not given, they would make another command: `--data=$UNSET` would begin
    the default job.
    """
    fields = {**vars(request.machine), **vars(request)}
    for name, value in fields.items():
        empty = value == "" or (isinstance(value, tuple) and "" in value)
        if empty and name != "text":
            raise ValueError(f"--{name} is empty; give it a value, or leave it out")


def _check_folders(request: Request) -> None:
    folders = [("t5_tfds_data_dir", request.t5_tfds_data_dir)]
    folders += [
        (name, each)
        for name in ("gin_location_prefix", "additional_task_cache_dirs")
        for each in getattr(request, name)
    ]
    for name, folder in folders:
        if folder and not is_elsewhere(folder):
            check_folder(folder, f"--{name} {folder!r}")
    if os.path.isfile(request.model_dir):
        raise ValueError(
            f"model_dir {request.model_dir!r} is a file; name a folder with --model_dir"
        )


def _check_inputs(request: Request) -> None:
    for name in ("input_file", "target_file"):
        path = getattr(request, name)
        if path is None or is_elsewhere(path):
            continue
        shown = f"--{name} {path!r}"
        if not os.path.exists(path):
            raise ValueError(f"{shown} does not exist")
        if os.path.isdir(path):
            raise ValueError(f"{shown} is a folder; give a file with a text on each line")
        if not os.path.isfile(path):
            raise ValueError(
                f"{shown} is a pipe or a device; give a file"
                f"{', or pipe the lines to hmoe predict' if request.command == 'predict' else ''}"
            )
        check_readable(path, shown)
        _check_lines(path, shown)
    if request.command == "score" and request.input_file and not request.target_file:
        raise ValueError(
            "--input_file has the inputs alone; give the targets to score with --target_file"
        )


def _check_lines(path: str, shown: str) -> None:
    """Raises ValueError unless a file has text in UTF-8."""
    number, has_text = 0, False
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            has_text = has_text or bool(line.strip())
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{shown}, line {number}: byte 0x{line[error.start]:02x} at column "
                    f"{error.start + 1} is not UTF-8; save the file as UTF-8"
                ) from None
    if not has_text:
        what = "only blank lines" if number else "no line"
        raise ValueError(f"{shown} holds {what}; give a file with a text on each line")


def _check_outputs(request: Request) -> None:
    if request.output_file and not is_elsewhere(request.output_file):
        _check_output_file(request, request.output_file)
    for name in ("export_dir", "output_dir"):
        folder = getattr(request, name)
        if folder and not is_elsewhere(folder):
            if os.path.isfile(folder) and name == "export_dir":
                raise ValueError(f"--{name} {folder!r} is a file; name a folder")
            check_can_be_written(os.path.join(folder, "new"), f"--{name} {folder!r}")


def _check_output_file(request: Request, target: str) -> None:
    """Raises ValueError if a file to write is a folder, one of the files to read, or impossible."""
    shown = f"--output_file {target!r}"
    for path in answer_files.outputs(request):
        if os.path.isdir(path) or target.endswith(os.sep):
            raise ValueError(f"{shown} is a folder; name a file in it")
        for name in ("input_file", "target_file"):
            source = getattr(request, name)
            if source and os.path.realpath(source) == os.path.realpath(path):
                raise ValueError(
                    f"{shown} would replace --{name} {source!r}; name another file to write to"
                )
    check_can_be_written(target, shown)
