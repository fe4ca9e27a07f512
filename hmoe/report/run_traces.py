"""The traces of a run that a report shows."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from hmoe.analysis import traces
from hmoe.analysis.traces import Trace
from hmoe.storage import local_files

_NAME = re.compile(r"trace-(\d+)\.parquet")


def read(folder: str, files: Sequence[str] = ()) -> list[Trace]:
    """Returns traces in the order of their steps.

    Args:
      folder: of a run, whose traces are read if no files are named.
      files: traces.

    Raises:
      ValueError: a file does not exist, is no trace, or is damaged.
      OSError: a file cannot be read.
    """
    for path in files:
        local_files.check_file(path, f"--trace {path!r}")
    found = [traces.read(path) for path in files or _in_folder(folder)]
    return sorted(found, key=lambda trace: trace.manifest.step)


def _in_folder(folder: str) -> list[str]:
    names = [name for name in sorted(os.listdir(folder)) if _NAME.fullmatch(name)]
    return [os.path.join(folder, name) for name in names]
