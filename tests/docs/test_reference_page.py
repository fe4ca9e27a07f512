"""The reference page: as the code is, whole, and with examples that make a model."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hmoe.layer import metrics
from hmoe.t5 import configurables
from hmoe.t5.sessions import run_metrics
from tests.gin import configs
from tests.layer import test_metrics
from tools import reference
from tools import reference_tables as tables

CLASSES = [cls.__name__ for cls in configurables.CLASSES]
LAYER = "encoder/block_000/layer_001"


def test_page_is_as_the_code():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), (
        "docs/reference.md is not what the code says; run `make reference`"
    )


def test_every_class_has_its_section_and_an_example():
    sections = re.findall(r"^## `hmoe\.(\w+)`$", reference.page(), re.MULTILINE)
    assert (
        sorted(sections) == sorted(CLASSES) == sorted(tables.ARGUMENTS) == sorted(tables.EXAMPLES)
    )


@pytest.mark.parametrize("cls", reference.classes(), ids=CLASSES)
def test_sources_are_known(cls):
    for row in reference.rows(cls):
        for source in row.source.split("; "):
            assert any(source.startswith(known) for known in tables.REFERENCES), row


class Undocumented:
    """Nothing is said of its argument."""

    def __init__(self, *, width: int = 3):
        self.width = width


@pytest.mark.parametrize(
    ("table", "missing"), [({}, "unit"), ({"width": ("tokens", "hmoe")}, "effect")]
)
def test_an_argument_without_unit_or_effect_fails(table, missing, monkeypatch):
    monkeypatch.setitem(tables.ARGUMENTS, "Undocumented", table)
    with pytest.raises(ValueError) as error:
        reference.rows(Undocumented)
    assert str(error.value) == (
        f"Undocumented.width has no {missing}: units and sources are in"
        " tools/reference_tables.py, effects in the docstrings"
    )


def test_a_row_of_no_argument_fails(monkeypatch):
    [level] = [cls for cls in reference.classes() if cls.__name__ == "Level"]
    table = {**tables.ARGUMENTS["Level"], "width": ("tokens", "hmoe")}
    monkeypatch.setitem(tables.ARGUMENTS, "Level", table)
    with pytest.raises(ValueError) as error:
        reference.rows(level)
    assert str(error.value) == (
        "Level has no argument width, which tools/reference_tables.py describes"
    )


@pytest.mark.parametrize("name", CLASSES)
def test_example_makes_what_it_is_about(name):
    """In the encoder and in the decoder, beside the model that the page names."""
    made = name if name.endswith("Attention") else "MoELayer"
    with configs.parsed(["models/hierarchical_tiny.gin"], [tables.EXAMPLES[name]]):
        for stack in ("encoder", "decoder"):
            with configs.gin.config_scope(stack):
                assert getattr(configurables, made)().moe.levels


def _names(sums):
    """{(of what, name)} that `summarize` makes, without numbers and without the layer's name."""
    found = set()
    for name in metrics.summarize({LAYER: sums}):
        name = re.sub(
            r"(rank|load)_\d+$",
            lambda match: f"{match[1]}_" + {"rank": "<r>", "load": "<i>"}[match[1]],
            name,
        )
        if name.startswith("experts/"):
            found.add(
                (
                    "model",
                    re.sub(r"^experts/(outer|inner|only)/", "<level>/", name).replace(
                        "experts/", ""
                    ),
                )
            )
            continue
        parts = name[len(LAYER) + 1 :].split("/")
        found.add(("level" if len(parts) == 2 else "layer", parts[-1]))
    return found


def _brief():
    sums = test_metrics.two_levels()
    sums["outer/tokens"], sums["inner/tokens"] = test_metrics.OUTER[:6], test_metrics.INNER[:, :6]
    return sums


def _off():
    return {"only/losses": test_metrics.OUTER_LOSSES.ravel()}


@pytest.mark.parametrize(
    ("sums", "details"),
    [
        (_off(), ["off"]),
        (_brief(), ["off", "brief"]),
        (test_metrics.two_levels(), ["off", "brief", "full"]),
    ],
    ids=["off", "brief", "full"],
)
def test_every_metric_of_the_experts_is_on_the_page(sums, details):
    listed = [(row.of, row.name) for row in tables.METRICS if row.detail in details]
    assert sorted(listed) == sorted(_names(sums))
    assert all(all(row) for row in tables.METRICS)


class AnySums(dict):
    """Has every sum that is asked for."""

    def __missing__(self, key):
        return np.float64(2)


def test_every_metric_of_the_run_is_on_the_page(monkeypatch):
    collector = run_metrics.SumCollector()
    collector.sums, collector.count = AnySums(), 1
    monkeypatch.setattr(run_metrics, "expert_metrics", lambda sums: {})
    # What hooks add to a line is the rest.
    training = {
        *run_metrics.training_metrics(collector),
        "step",
        "time",
        "steps_per_second",
        "tokens_per_second",
    }
    evaluation = set(run_metrics.evaluation_metrics(collector))
    for name, (when, *_) in tables.RUN.items():
        assert (name in training, name in evaluation) == (
            when != "evaluation",
            when != "training",
        ), name
    assert set(tables.RUN) == training | evaluation
