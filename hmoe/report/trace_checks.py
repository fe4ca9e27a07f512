"""Checks that a trace is of the model whose run a report is about."""

from __future__ import annotations

from hmoe.analysis.traces import LayerInfo, Trace
from hmoe.report import curves
from hmoe.report.curves import Place
from hmoe.report.runs import Run
from hmoe.startup.command_line import command


def check(run: Run, trace: Trace, path: str) -> None:
    """Checks that a trace has tokens, and layers and levels that the run's metrics know.

    A run without metrics of experts could be of any model, and passes. So does a level without
    the load of its experts as far as their number goes.

    Args:
      run: the run.
      trace: the trace.
      path: its file.

    Raises:
      ValueError: the trace has no tokens, or is of another model.
    """
    if not len(trace):
        raise ValueError(f"{path}: the trace has no tokens; trace the model again with more data")
    known = _levels(run)
    if not known:
        return
    shared = [layer for layer in trace.manifest.layers if layer.name in known]
    if not shared:
        raise _wrong(run, path, _names(trace), f"has {', '.join(known)}")
    for layer in shared:
        expected, found = known[layer.name], _shape(layer)
        if not _fits(expected, found):
            raise _wrong(run, path, f"{layer.name} as {_words(found)}", f"has {_words(expected)}")


def _levels(run: Run) -> dict[str, dict[str, int]]:
    """Returns the levels of each layer in a run's metrics, with their experts; 0 if unknown."""
    found: dict[str, dict[str, int]] = {}
    for place in curves.places(run):
        found.setdefault(place.layer, {})[place.level] = _num_experts(run, place)
    return found


def _num_experts(run: Run, place: Place) -> int:
    return len(curves.load_curves(run, place))


def _shape(layer: LayerInfo) -> dict[str, int]:
    return {level.name: level.num_experts for level in layer.levels}


def _fits(expected: dict[str, int], found: dict[str, int]) -> bool:
    sizes_fit = all(expected[name] in (0, size) for name, size in found.items() if name in expected)
    return expected.keys() == found.keys() and sizes_fit


def _names(trace: Trace) -> str:
    return ", ".join(layer.name for layer in trace.manifest.layers)


def _words(levels: dict[str, int]) -> str:
    """Returns levels in words, such as "outer (2) and inner (3)"."""
    return " and ".join(f"{name} ({size})" if size else name for name, size in levels.items())


def _wrong(run: Run, path: str, found: str, expected: str) -> ValueError:
    return ValueError(
        f"{path}: a trace of another model than that of {run.folder!r}: it has {found}, but the run"
        f" {expected}; name a trace of this run, made by {command('trace', model_dir=run.folder)}"
    )
