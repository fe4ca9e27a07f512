"""The files that answers and scores are read from and written to, which are written whole."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import IO

from etils import epath

from hmoe.startup import text_lines
from hmoe.startup.request import Request
from hmoe.storage import disk_full
from hmoe.storage.local_files import is_elsewhere

# Ends of the names of the files that `hmoe score --output_file` writes.
SCORE_FILES = (".scores", ".inputs", ".targets", ".lengths")
# End of the name of a file of answers that is not finished.
UNFINISHED = ".unfinished"


def check(request: Request) -> None:
    """Raises ValueError if a request has another number of targets than of inputs."""
    counts = [
        (f"--{name} {path!r}", len(text_lines.read(f"--{name}", path)))
        for name in ("input_file", "target_file")
        for path in [getattr(request, name)]
        if path and not is_elsewhere(path)
    ]
    if len(counts) == 2:
        check_counts(*counts[0], *counts[1])


def outputs(request: Request) -> list[str]:
    """Returns the paths of the files that a request writes answers, scores or a trace to."""
    of_command = request.trace or request.ablate
    if of_command:
        return [of_command.output] if of_command.output else []
    ends = SCORE_FILES if request.command == "score" else ("",)
    return [request.output_file + end for end in ends] if request.output_file else []


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


@contextlib.contextmanager
def writing(path: str) -> Iterator[Callable[[str], None]]:
    """Writes a file line by line, beside its place, and moves it there at the end.

    If that is interrupted, what stood in its place is as it was, and what is done so far is in a
    file whose name ends in `UNFINISHED`. Nothing is made before the first line is written.

    Args:
      path: the file, on this machine or an address such as "gs://..."; its folder is made.

    Yields:
      A function that writes a line.

    Raises:
      ValueError: the file cannot be written.
    """
    unfinished = epath.Path(path + UNFINISHED)
    with disk_full.naming(path), contextlib.ExitStack() as stack:
        opened = functools.cache(lambda: stack.enter_context(_open(unfinished, path)))
        yield lambda line: _write(opened(), line)
        opened()  # where there was no line, the file is empty
    unfinished.replace(path)


def _open(unfinished: epath.Path, path: str) -> IO[str]:
    try:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        return unfinished.open("w", encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"--output_file {path!r} cannot be written: {error.strerror or error}"
        ) from error


def _write(file: IO[str], line: str) -> None:
    file.write(f"{text_lines.one_line(line)}\n")
    file.flush()
