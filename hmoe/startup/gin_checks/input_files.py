"""Files that gin names for a command to read: lines to answer or to score, and a checkpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from hmoe.startup import answer_files, text_lines
from hmoe.startup.gin_reading import Reading, Resolved
from hmoe.startup.gin_statements import Reference
from hmoe.startup.request import Request
from hmoe.storage import checkpoint_files
from hmoe.storage.local_files import check_readable, is_elsewhere

_UTILS = "mesh_tensorflow.transformer.utils"
_DECODE = f"{_UTILS}.decode_from_file"
_SCORE = f"{_UTILS}.score_from_strings"
# The ends of the files of a checkpoint.
_END = re.compile(r"\.(index|meta|manifest\.json|data-\d+-of-\d+)$")


def check(reading: Reading, request: Request) -> None:
    """Raises ValueError for a file on this machine that the command would not find, or not read."""
    if request.command == "predict" and _decodes_from_file(reading, request):
        _lines(reading, f"{_DECODE}.input_filename")
    is_dataset = reading.literal(f"{_UTILS}.run.mode") == "score_from_dataset"
    if request.command == "score" and not request.target_file and not is_dataset:
        _check_pairs(reading)
    if request.command == "train":
        _check_beginning(reading, request)


def reads_standard_input(reading: Reading, request: Request) -> bool:
    """Returns whether a command takes its lines from standard input or a prompt."""
    if request.command != "predict" or not _decodes_from_file(reading, request):
        return False
    names = ("input_filename", "output_filename")
    return not any(_bound(reading, f"{_DECODE}.{name}") for name in names)


def _decodes_from_file(reading: Reading, request: Request) -> bool:
    if request.text or request.input_file:
        return False
    binding = reading.bound(f"{_UTILS}.infer_model.decode_fn")
    value = reading.resolve(binding).value if binding else None
    return value is None or (
        isinstance(value, Reference) and f".{_DECODE}".endswith(f".{value.selector}")
    )


def _check_pairs(reading: Reading) -> None:
    inputs = _lines(reading, f"{_SCORE}.inputs")
    targets = _lines(reading, f"{_SCORE}.targets")
    if inputs and targets:
        answer_files.check_counts(inputs[0], len(inputs[1]), targets[0], len(targets[1]))


def _lines(reading: Reading, argument: str) -> tuple[str, Sequence[str]] | None:
    """Reads the lines of an argument.

    Returns:
      Where they are from, for messages, and the lines; None for none, or for those of a file on
      another machine.
    """
    found = _bound(reading, argument)
    if found is None:
        return None
    shown = f"{found.place}: {found.name}"
    if isinstance(found.value, (list, tuple)):
        return shown, found.value
    if not isinstance(found.value, str) or is_elsewhere(found.value):
        return None
    path = found.value
    if os.path.exists(path) and not os.path.isdir(path):
        check_readable(path, f"{shown} {path!r}")
    return f"{shown} {path!r}", text_lines.read(shown, path)


def _bound(reading: Reading, argument: str) -> Resolved | None:
    binding = reading.bound(argument)
    return reading.resolve(binding) if binding else None


def _check_beginning(reading: Reading, request: Request) -> None:
    """Raises ValueError if a run is to begin with a checkpoint that is not there."""
    found = _bound(reading, f"{_UTILS}.run.init_checkpoint")
    if found is None or not isinstance(found.value, str) or is_elsewhere(found.value):
        return
    path = found.value
    shown = f"{found.place}: {found.name} is {path!r}"
    without_end = _END.sub("", path)
    if without_end != path:
        raise ValueError(f"{shown}, a file of a checkpoint; name the whole: {without_end!r}")
    is_there = os.path.exists(path) or os.path.exists(f"{path}.index")
    if not is_there and not _goes_on(request):
        raise ValueError(
            f"{shown}, but there is no checkpoint of that name ({path}.index does not exist); name "
            "one without the ends of its files, such as 'runs/default/model.ckpt-1200'"
        )


def _goes_on(request: Request) -> bool:
    """Returns whether training may go on from a checkpoint of its own, and so need no other."""
    if is_elsewhere(request.model_dir):
        return True
    return not request.overwrite and bool(checkpoint_files.saved_steps(request.model_dir))
