"""The sections about what experts learned, from traces."""

from __future__ import annotations

from collections.abc import Sequence

from hmoe.report import (
    heat,
    retention,
    trace_information,
    trace_labels,
    trace_load,
    trace_relations,
    trace_sentence,
    trace_tree,
    views,
)
from hmoe.report.content import Section, Side
from hmoe.report.views import View


def sections(seen: Sequence[View]) -> list[Section]:
    """Returns the sections; without any trace, one that says how to make a trace."""
    if not any(view.traces for view in seen):
        return [_no_trace(seen), heat.drawn(retention.section(seen))]
    found = [
        trace_load.section(seen),
        trace_tree.section(seen),
        trace_information.section(seen),
        trace_labels.label_section(seen),
        trace_labels.vocabulary_section(seen),
        trace_relations.saturation_section(seen),
        trace_relations.coactivation_section(seen),
        trace_relations.path_section(seen),
        retention.section(seen),
        trace_sentence.section(seen),
    ]
    return [heat.drawn(section) for section in found]


def _no_trace(seen: Sequence[View]) -> Section:
    return Section(
        "learned",
        "What the experts learned",
        "",
        "The load of experts, what they know of labels, and the tree of experts are computed from a"
        " trace: which experts each token of an evaluation went to.",
        "Nothing to show without a trace.",
        tuple(Side(view.title, (views.no_trace(view),)) for view in seen),
    )
