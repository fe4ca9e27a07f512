"""What sections about traces share: one view for each run, and which layers are pictured."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from hmoe.analysis.retention_scores import RetentionStudy
from hmoe.analysis.traces import Trace
from hmoe.report.content import Item, Note, Side
from hmoe.startup.command_line import command

_LONGEST_FILE_NAME = 100
# The most layers of which pictures are drawn; tables have all.
MOST_PICTURED = 4

_Of = TypeVar("_Of")


@dataclasses.dataclass(frozen=True)
class View:
    """A run as sections about traces see it.

    Attributes:
      folder: its folder.
      title: its heading; "" where there is only one run.
      suffix: what the names of its pictures end with.
      traces: its traces in the order of their steps.
      retention: its scores with some experts left out, of each label; () for none.
      has_experts: whether the model has expert layers, so that it can be traced.
    """

    folder: str
    title: str
    suffix: str
    traces: tuple[Trace, ...]
    retention: tuple[RetentionStudy, ...] = ()
    has_experts: bool = True

    @property
    def newest(self) -> Trace:
        """The trace of the last step."""
        return self.traces[-1]


def sides(views: Sequence[View], items: Callable[[View], Sequence[Item]]) -> tuple[Side, ...]:
    """Returns what is shown of each run's newest trace, with its step before it."""

    def with_step(view: View) -> list[Item]:
        return [Note(f"Trace of step {view.newest.manifest.step:,}."), *items(view)]

    return sides_of_all(views, with_step)


def sides_of_all(
    views: Sequence[View], items: Callable[[View], Sequence[Item]]
) -> tuple[Side, ...]:
    """Returns what is shown of each run's traces; of one without a trace, why there is none."""
    return tuple(
        Side(view.title, tuple(items(view) if view.traces else [no_trace(view)])) for view in views
    )


def no_trace(view: View) -> Note:
    """Returns a line that says how to trace a run, or that there is nothing to trace."""
    if not view.has_experts:
        return Note("This run has no expert layers.")
    return Note(
        "This run has no trace. This command makes one, and then the report again shows it:",
        command("trace", model_dir=view.folder),
    )


def pictured(found: Sequence[_Of]) -> list[_Of]:
    """Returns at most `MOST_PICTURED` of these, from first to last."""
    if len(found) <= MOST_PICTURED:
        return list(found)
    chosen = np.linspace(0, len(found) - 1, MOST_PICTURED).round().astype(int)
    return [found[number] for number in chosen]


def left_out(found: Sequence[object], what: str = "layers") -> list[Note]:
    """Returns a line that says how many of these have no picture, if there are such."""
    missing = len(found) - len(pictured(found))
    if not missing:
        return []
    return [Note(f"{missing} of {len(found)} {what} have no picture here, but are in the table.")]


def file_name(kind: str, layer: str, view: View) -> str:
    """Returns the name of a picture's files, which names in a trace cannot lead elsewhere.

    Of a long name the beginning is left, with a number that tells it from others.
    """
    words = f"{kind}-{layer}"
    safe = "".join(each if each.isascii() and each.isalnum() else "-" for each in words)
    if len(safe) > _LONGEST_FILE_NAME:
        safe = f"{safe[:_LONGEST_FILE_NAME]}-{zlib.crc32(words.encode()):08x}"
    return f"{safe}{view.suffix}"


def leaf_name(leaf: int, sizes: Sequence[int]) -> str:
    """Returns the number of a leaf as its expert at each level, such as "1.3"."""
    experts = np.unravel_index(leaf, tuple(sizes))
    return ".".join(str(int(each)) for each in experts)


def visible(piece: str) -> str:
    """Returns the text of a token such that white space and control characters show."""
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in piece)
    return shown.replace(" ", "\u2423") or "\u2205"
