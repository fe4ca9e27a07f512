"""Makes the report about a run: reads, computes, and writes only when all is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from hmoe.analysis.traces import Trace
from hmoe.report import curves, output, page, retention, run_traces, runs, training
from hmoe.report.content import Section, Table
from hmoe.report.page import RunFacts
from hmoe.report.runs import Run
from hmoe.report.views import View
from hmoe.startup import saved_run
from hmoe.version import __version__

DEFAULT_NAME = "report.html"


def report(
    model_dir: str,
    say: Callable[[str], None],
    trace_files: Sequence[str] = (),
    against: str | None = None,
    path: str | None = None,
) -> str:
    """Writes a report as an HTML page, and its pictures to a folder beside it.

    Args:
      model_dir: folder of a run.
      say: prints a line for the user.
      trace_files: traces of the run; by default those in its folder.
      against: folder of another run to stand beside it, or None.
      path: the page; by default `report.html` in the run's folder.

    Returns:
      The path of the page.

    Raises:
      ValueError: a folder or file is not as it should be; nothing is written.
      OSError: a file cannot be read or written.
    """
    if against is not None and os.path.realpath(against) == os.path.realpath(model_dir):
        raise ValueError(f"--against {against!r} is the folder of --model_dir; name another run")
    found = [runs.read(folder) for folder in (model_dir, against) if folder is not None]
    made = os.path.join(model_dir, DEFAULT_NAME) if path is None else path
    output.check(made)
    files = [trace_files, ()]
    traced = [run_traces.read(run, named) for run, named in zip(found, files)]
    sections = _sections(found, traced)
    facts = [_facts(run, traces) for run, traces in zip(found, traced)]
    title = f"Report of {' against '.join(_name(run) for run in found)}"
    folder, count = output.write(made, page.html(title, facts, sections), sections)
    say(f"Wrote {made}, and its {count} pictures as SVG and PNG to {folder}")
    return made


def _sections(found: Sequence[Run], traced: Sequence[Sequence[Trace]]) -> list[Section]:
    seen = [_view(found, number, traces) for number, traces in enumerate(traced)]
    # Imports scipy, which a mistyped folder need not wait for.
    from hmoe.report import learned

    return training.sections(found) + learned.sections(seen)


def _view(found: Sequence[Run], number: int, traces: Sequence[Trace]) -> View:
    """Returns a run as sections about traces see it."""
    folder = found[number].folder
    is_single = len(found) == 1
    return View(
        folder,
        title="" if is_single else folder,
        suffix="" if is_single else f"-{'ab'[number]}",
        traces=tuple(traces),
        retention=retention.read(folder),
        has_experts=bool(traces) or curves.has_experts(found[number]),
    )


def _name(run: Run) -> str:
    return os.path.basename(os.path.normpath(run.folder)) or run.folder


def _trained_by(run: Run) -> list[tuple[str, str]]:
    """Returns the versions that trained a run; nothing for a run that does not tell them."""
    rows = []
    for versions in run.versions:
        step = versions[saved_run.FROM_STEP]
        after = f" after step {step:,}" if step else ""
        names = [name for name in versions if name != saved_run.FROM_STEP]
        words = [f"{name.replace('_', ' ')} {versions[name]}" for name in names]
        rows.append((f"trained by{after}", ", ".join(words)))
    return rows


def _facts(run: Run, traces: Sequence[Trace]) -> RunFacts:
    """Returns what ran."""
    checkpoint = f"step {run.checkpoints[-1]:,}" if run.checkpoints else "none here"
    rows = [
        ("folder", run.folder),
        ("last report of training", f"step {run.last_step:,}"),
        ("newest checkpoint", checkpoint),
        *((name.replace("_", " "), value) for name, value in run.data.items()),
        *_trained_by(run),
        ("report made by", f"hmoe {__version__}"),
    ]
    for trace in traces:
        manifest = trace.manifest
        settings = [f"{name} {value}" for name, value in manifest.settings.items()]
        words = [f"{manifest.num_examples:,} examples", *settings, f"hmoe {manifest.version}"]
        rows.append((f"trace of step {manifest.step:,}", ", ".join(words)))
    table = Table("What ran", ("what", "value"), tuple(rows))
    return RunFacts(run.folder, table, run.gin)
