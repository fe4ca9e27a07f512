"""Checks the files of `--data`, so that a bad line is found before TensorFlow is loaded."""

from __future__ import annotations

import filecmp
import os

from hmoe.startup.data_files import lines, scan, vocabulary
from hmoe.startup.request import Request, TraceFlags
from hmoe.storage.local_files import check_file


def check(request: Request) -> list[str]:
    """Checks the data and the vocabulary of a request.

    Returns:
      Sentences about what is likely a mistake.

    Raises:
      ValueError: a file cannot be used.
    """
    if request.trace:
        return _check_traced(request.trace)
    for flag in ("vocabulary", "data", "validation_data"):
        path = getattr(request, flag)
        if path:
            check_file(path, f"--{flag} {path!r}")
    if request.vocabulary:
        vocabulary.check(request.vocabulary)
    if not request.data:
        return []
    data_format = lines.format_of(request.data, request.data_format)
    check_apart(request.data, request.validation_data)
    found = scan.scan(request.data, data_format, request.skip_bad_lines)
    if request.validation_data is None:
        scan.hold_out(request.data, found)
        return found.warnings(request.data)
    validation = scan.scan(request.validation_data, data_format, request.skip_bad_lines)
    return found.warnings(request.data) + validation.warnings(request.validation_data)


def _check_traced(flags: TraceFlags) -> list[str]:
    if not flags.data:
        return []
    check_file(flags.data, f"--data {flags.data!r}")
    data_format = lines.format_of(flags.data, flags.data_format)
    return scan.scan(flags.data, data_format, flags.skip_bad_lines).warnings(flags.data)


def check_apart(data: str, validation_data: str | None) -> None:
    """Raises ValueError if the data to evaluate on is the training data itself."""
    if validation_data is not None and os.path.realpath(validation_data) == os.path.realpath(data):
        raise ValueError(
            f"validation_data is the data itself ({data}); leave it out to hold out a part of the "
            "data"
        )
    if validation_data is not None and _are_equal(data, validation_data):
        raise ValueError(
            f"validation_data {validation_data} holds the same as the data {data}, so it shows "
            "nothing new; leave it out to hold out a part of the data"
        )


def _are_equal(data: str, validation_data: str) -> bool:
    paths = (data, validation_data)
    return all(map(os.path.isfile, paths)) and filecmp.cmp(*paths, shallow=False)
