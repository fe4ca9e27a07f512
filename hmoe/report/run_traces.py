"""The traces of a run that a report shows."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hmoe.analysis import traces
from hmoe.analysis.traces import Trace
from hmoe.report import trace_checks
from hmoe.report.runs import Run
from hmoe.storage import local_files, study_files


def read(run: Run, files: Sequence[str] = ()) -> list[Trace]:
    """Returns traces in the order of their steps.

    Args:
      run: the run, from whose folder traces are read if no files are named.
      files: traces.

    Raises:
      ValueError: a file does not exist, is no trace, is damaged, or is of another model.
      OSError: a file cannot be read.
    """
    for path in files:
        local_files.check_file(path, f"--trace {path!r}")
    paths = files or _in_folder(run.folder)
    found = [traces.read(path) for path in paths]
    for path, trace in zip(paths, found):
        trace_checks.check(run, trace, path)
    return sorted(found, key=lambda trace: trace.manifest.step)


def _in_folder(folder: str) -> list[str]:
    names = [name for name in sorted(os.listdir(folder)) if study_files.TRACE.fullmatch(name)]
    return [os.path.join(folder, name) for name in names]
