"""A chart of the levels of a run over steps that shows numbers under the pointer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hmoe.report import curves
from hmoe.report.content import Chart
from hmoe.report.drawing import COLORS
from hmoe.report.runs import Run

# The metrics of the chart by name, with their titles; all but MaxVio and drops have no picture, so
# the table of the levels at the end of training has them too.
METRICS = {
    "max_violation_of_steps": "MaxVio of single steps",
    "max_violation": "MaxVio between reports",
    "fraction_tokens_dropped": "tokens dropped",
    "fraction_arrivals_dropped": "arrivals dropped",
    "expert_usage": "expert usage",
    "router_confidence": "router confidence",
    "entropy": "entropy",
}
# The most values of a line, and of the chart: they stand in the page as text.
_MOST, _MOST_IN_ALL = 120, 4000


def chart(run: Run, name: str) -> Chart | None:
    """Returns a chart of this name of the metrics of all levels; None if the run has none."""
    rows = list(_rows(run))
    if not rows:
        return None
    import altair

    shown = list(dict.fromkeys(row["metric"] for row in rows))
    menu = altair.binding_select(options=shown, name="show ")
    metric = altair.selection_point(fields=["metric"], bind=menu, value=shown[0])
    line = altair.selection_point(fields=["level"], bind="legend")
    made = (
        altair.Chart(altair.Data(values=rows))
        .mark_line(point=altair.OverlayMarkDef(size=25))
        .encode(
            x=altair.X("step:Q", title="training step"),
            y=altair.Y("value:Q", title=None),
            color=altair.Color(
                "level:N",
                title=None,
                scale=altair.Scale(range=list(COLORS)),
                legend=altair.Legend(orient="bottom", columns=1, labelLimit=500),
            ),
            opacity=altair.condition(line, altair.value(1.0), altair.value(0.12)),
            tooltip=["step:Q", altair.Tooltip("value:Q", format=".4g"), "level:N", "metric:N"],
        )
        .add_params(metric, line)
        .transform_filter(metric)
        .properties(
            width="container", height=260, description="Metrics of each layer and level over steps"
        )
    )
    return Chart(
        name,
        "Metrics of each layer and level; the pointer shows numbers, a click in the legend shows"
        " one level alone.",
        "A chart for the pointer, of each layer and level over steps. Pictures show MaxVio and"
        " tokens dropped over steps too; how each of its metrics ends stands in the section"
        ' "Levels at the end of training".',
        _plain(made.to_dict()),
    )


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    places = curves.places(run)
    most = min(_MOST, max(2, _MOST_IN_ALL // (len(METRICS) * max(len(places), 1))))
    for place in places:
        for name, title in METRICS.items():
            found = curves.curve(run, f"{place}/{name}")
            if found is None:
                continue
            shown = curves.thinned(found, most)
            for step, value in zip(shown.steps.tolist(), shown.values.tolist()):
                value = float(f"{value:.4g}")
                yield {"step": step, "value": value, "level": str(place), "metric": title}


def _plain(spec: dict[str, Any]) -> dict[str, Any]:
    """Returns a spec without a background, for the page's own to show."""
    config = {**spec.get("config", {}), "background": None, "view": {"stroke": None}}
    return {**spec, "config": config}
