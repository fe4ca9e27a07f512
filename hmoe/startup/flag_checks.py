"""Flags whose values show by themselves, or by the files that they name, that they cannot work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from hmoe.startup import answer_files
from hmoe.startup.request import Request
from hmoe.storage.local_files import (
    check_can_be_written,
    check_file,
    check_folder,
    is_elsewhere,
)

# Files that stand in the folder of a model, and are needed or written there.
_OF_A_RUN = re.compile(
    r"checkpoint$|model\.ckpt|events\.out|graph\.pbtxt|(log\.txt|process_\d+\.log)$|metrics\.jsonl$"
    r"|run\.json$|(operative_)?config\.gin$|vocabulary\.model$|\.hmoe\."
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
    for name, value in {**vars(request), **_flags_of_command(request)}.items():
        for each in value if isinstance(value, tuple) else [value]:
            if not isinstance(each, str):
                continue
            try:
                each.encode("utf-8")
            except UnicodeEncodeError:
                shown = each.encode("utf-8", "surrogateescape")
                flag = "the text" if name == "text" else f"--{name}"
                raise ValueError(f"{flag} is not in UTF-8: {shown!r}") from None
            if "\0" in each:
                raise ValueError(f"--{name} has a zero byte: {each!r}")


def _check_not_empty(request: Request) -> None:
    """Refuses empty flags, such as of a shell's variable that is not set.

    Taken for flags that are not given, they would make another command: `--data=$UNSET` would begin
    the default job.
    """
    fields = {**vars(request.machine), **vars(request), **_flags_of_command(request)}
    for name, value in fields.items():
        empty = value == "" or (isinstance(value, tuple) and "" in value)
        if empty and name != "text":
            raise ValueError(f"--{name} is empty; give it a value, or leave it out")


def _flags_of_command(request: Request) -> dict[str, object]:
    """Returns the flags that one command alone has."""
    groups = (request.plan, request.trace, request.ablate)
    return {name: value for group in groups if group for name, value in vars(group).items()}


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
    if request.replay is not None:
        _check_replay(request, request.replay)
    for name in ("input_file", "target_file"):
        path = getattr(request, name)
        if path is None or is_elsewhere(path):
            continue
        shown = f"--{name} {path!r}"
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise ValueError(
                f"{shown} is a pipe or a device; give a file"
                f"{', or pipe the lines to hmoe predict' if request.command == 'predict' else ''}"
            )
    if request.command == "score" and request.input_file and not request.target_file:
        raise ValueError(
            "--input_file has the inputs alone; give the targets to score with --target_file"
        )


def _check_replay(request: Request, path: str) -> None:
    shown = f"--replay {path!r}"
    if request.machine.tpu is not None:
        raise ValueError(f"{shown} runs on CPUs and GPUs; leave --tpu out, or --replay")
    if request.workers is not None:
        raise ValueError(
            f"{shown} runs in one process, which looks up the examples of each batch; leave"
            f" {request.workers.given_by} out, or --replay"
        )
    if not is_elsewhere(path):
        check_file(path, shown)


def _check_outputs(request: Request) -> None:
    if request.output_file and not is_elsewhere(request.output_file):
        _check_output_file(request, request.output_file, "output_file")
    of_command = request.trace or request.ablate
    if of_command and of_command.output and not is_elsewhere(of_command.output):
        _check_output_file(request, of_command.output, "output")
    folders = {"export_dir": request.export_dir, "output_dir": request.output_dir}
    folders["plot"] = request.plan.plot if request.plan else None
    for name, folder in folders.items():
        if folder and not is_elsewhere(folder):
            if os.path.isfile(folder) and name != "output_dir":
                raise ValueError(f"--{name} {folder!r} is a file; name a folder")
            check_can_be_written(os.path.join(folder, "new"), f"--{name} {folder!r}")


def _check_output_file(request: Request, target: str, flag: str) -> None:
    """Raises ValueError if a file to write is a folder, one of the files to read, or impossible."""
    shown = f"--{flag} {target!r}"
    for path in answer_files.outputs(request):
        if os.path.isdir(path) or target.endswith(os.sep):
            raise ValueError(f"{shown} is a folder; name a file in it")
        if os.path.exists(path) and not os.path.isfile(path):
            # It is written beside its place and moved there, which would replace the device.
            raise ValueError(f"{shown} is a pipe or a device; name a file")
        # While it is written, it has another name.
        written = {os.path.realpath(each) for each in (path, path + answer_files.UNFINISHED)}
        for flag, source in _sources(request):
            if os.path.realpath(source) in written:
                raise ValueError(
                    f"{shown} would replace {flag} {source!r}; name another file to write to"
                )
        _check_not_of_a_run(path, shown, request.model_dir)
    check_can_be_written(target, shown)


def _sources(request: Request) -> Iterator[tuple[str, str]]:
    """Yields the files that a request reads, each with its flag."""
    for name in ("input_file", "target_file"):
        if getattr(request, name):
            yield f"--{name}", getattr(request, name)
    for path in request.gin_file:
        yield "--gin_file", path
    if request.trace and request.trace.data:
        yield "--data", request.trace.data
    if request.ablate and request.ablate.trace:
        yield "--trace", request.ablate.trace


def _check_not_of_a_run(path: str, shown: str, model_dir: str) -> None:
    """Raises ValueError if a file to write has the place of a file of the model itself."""
    folder, name = os.path.split(os.path.realpath(path))
    if folder == os.path.realpath(model_dir) and _OF_A_RUN.match(name):
        raise ValueError(
            f"{shown} would replace a file of the model in {model_dir!r}; name another file to "
            "write to"
        )
