"""Checks the files that answers and scores are read from and written to, and writes them whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from etils import epath

from hmoe.startup import text_lines
from hmoe.startup.request import Request

# Ends of the names of the files that `hmoe score --output_file` writes.
SCORE_FILES = (".scores", ".inputs", ".targets", ".lengths")
# End of the name of a file of answers that is not finished.
UNFINISHED = ".unfinished"


def check(request: Request) -> None:
    """Raises ValueError if texts to answer or to score, or a file for results, cannot be used."""
    for text in request.text:
        text_lines.check_argument(text)
    counts = {}
    for flag, path in (
        ("--input_file", request.input_file),
        ("--target_file", request.target_file),
    ):
        if path and "://" not in path:
            counts[flag] = len(text_lines.read(flag, path))
    if len(counts) == 2:
        check_counts(
            f"--input_file {request.input_file!r}",
            counts["--input_file"],
            f"--target_file {request.target_file!r}",
            counts["--target_file"],
        )
    if request.export_dir and os.path.isfile(request.export_dir):
        raise ValueError(
            f"--export_dir {request.export_dir!r} is a file; name a folder, in which each export "
            "gets a folder of its own"
        )
    if request.output_file and "://" not in request.output_file:
        ends = SCORE_FILES if request.command == "score" else ("",)
        for end in ends:
            _check_output(request.output_file, end, (request.input_file, request.target_file))


def check_counts(inputs: str, num_inputs: int, targets: str, num_targets: int) -> None:
    """Raises ValueError unless there is one target for each input.

    Args:
      inputs: where the inputs are from, such as "--input_file 'a.txt'".
      num_inputs: number of inputs.
      targets: where the targets are from.
      num_targets: number of targets.
    """
    if num_inputs != num_targets:
        raise ValueError(
            f"{inputs} has {_lines(num_inputs)} and {targets} has {_lines(num_targets)}; each "
            "target needs its input on the line of the same number (repeat an input that has "
            "several targets)"
        )


def _lines(count: int) -> str:
    return f"{count} line{'s' * (count != 1)}"


def _check_output(flag: str, end: str, sources: Sequence[str | None]) -> None:
    """Raises ValueError if a file cannot be written, or is one of those that are read."""
    path = flag + end
    for source in sources:
        if source and _is_same(source, path):
            raise ValueError(
                f"--output_file {flag!r} would replace {source!r}, which is read; name another file"
            )
    if os.path.isdir(path):
        raise ValueError(f"--output_file {flag!r}: {path!r} is a folder; name a file")
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise ValueError(f"--output_file {flag!r}: {folder!r} is a file, not a folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--output_file {flag!r}: the folder {folder!r} cannot be written")


def _is_same(one: str, other: str) -> bool:
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


@contextlib.contextmanager
def writing(path: str) -> Iterator[Callable[[str], None]]:
    """Writes a file line by line, beside its place, and moves it there at the end.

    If that is interrupted, what stood in its place is as it was, and what is done so far is in a
    file whose name ends in `UNFINISHED`.

    Args:
      path: the file, on this machine or an address such as "gs://..."; its folder is made.

    Yields:
      A function that writes a line.

    Raises:
      ValueError: the file cannot be written.
    """
    unfinished = epath.Path(path + UNFINISHED)
    try:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        file = unfinished.open("w", encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"--output_file {path!r} cannot be written: {error.strerror or error}"
        ) from error
    with file:
        yield lambda line: _write(file, line)
    unfinished.replace(path)


def _write(file: IO[str], line: str) -> None:
    file.write(f"{text_lines.one_line(line)}\n")
    file.flush()
