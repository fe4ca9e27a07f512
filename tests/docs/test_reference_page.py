"""The reference page: equal to the code, complete, and with examples that make a model."""

from __future__ import annotations

import dataclasses
import re

import gin
import numpy as np
import pytest
from gin import config as gin_config

from hmoe import checks, config
from hmoe.layer import metrics
from hmoe.t5 import configurables
from hmoe.t5.sessions import run_metrics
from tests.gin import configs
from tests.layer import test_metrics
from tools import reference

# From gin itself, since a list of our own could forget one.
NAMES = sorted(each.name for _, each in gin_config._REGISTRY.items() if each.module == "hmoe")
CLASSES = [name for name in NAMES if isinstance(reference.registered()[name], type)]
SETTINGS = {"Session", "TrainingData", "FormatSettings", "NameSettings"}
LAYER = "encoder/block_000/layer_001"


def test_page_is_as_the_code():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), (
        "docs/reference.md is not what the code says; run `make reference`"
    )


def test_the_registry_has_what_users_name():
    assert {"MoELayer", *SETTINGS} < set(NAMES)
    assert "moe1d_variable_name" in NAMES


def test_everything_that_gin_can_name_has_its_section_and_an_example():
    sections = re.findall(r"^## `hmoe\.(\w+)`$", reference.page(), re.MULTILINE)
    examples = sorted(path.stem for path in reference.EXAMPLES.glob("*.gin"))
    assert sorted(sections) == NAMES == examples


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_is_described(name):
    for row in reference.rows(reference.registered()[name]):
        assert all(row), row
        for source in row.source.split("; "):
            assert any(source.startswith(known) for known in reference.SOURCES), row


def test_an_argument_without_a_description_fails():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Undocumented(config.Configuration):
        width: int = 3

    with pytest.raises(ValueError) as error:
        reference.rows(Undocumented)
    assert str(error.value) == "Undocumented.width is not documented by a field"


def test_a_class_knows_its_own_arguments_first():
    @config.configuration()
    class Base(config.Configuration):
        depth: int = config.setting(
            1, doc="Depth.", unit="levels", source="hmoe", check=checks.positive_int
        )

    @config.configuration(defaults={"depth": 2})
    class Wide(Base):
        width: int = config.setting(
            3, doc="Width.", unit="tokens", source="hmoe", check=checks.positive_int
        )

    assert [(row.name, row.default) for row in reference.rows(Wide)] == [
        ("width", "`3`"),
        ("depth", "`2`"),
    ]


@pytest.mark.parametrize("name", CLASSES)
def test_example_makes_what_it_is_about(name):
    """In the encoder and in the decoder, beside the model that the page names."""
    with configs.parsed(["models/hierarchical_tiny.gin"], [reference.example(name)]):
        for stack in ("encoder", "decoder"):
            with configs.gin.config_scope(stack):
                if name in SETTINGS:
                    bound = gin.get_bindings(f"hmoe.{name}")
                    made = gin.get_configurable(f"hmoe.{name}")()
                    assert bound
                    assert {key: np.ravel(getattr(made, key)).tolist() for key in bound} == {
                        key: np.ravel(value).tolist() for key, value in bound.items()
                    }
                    continue
                layer = name if name.endswith("Attention") else "MoELayer"
                assert getattr(configurables, layer)().moe.levels


def _names(sums):
    """Returns {(kind, name)} of what `summarize` makes, without numbers and the layer's name."""
    found = set()
    for name in metrics.summarize({LAYER: sums}):
        name = re.sub(
            r"(rank|load)_\d+$",
            lambda match: f"{match[1]}_" + {"rank": "<r>", "load": "<i>"}[match[1]],
            name,
        )
        if name.startswith("experts/"):
            of_level = re.sub(r"^experts/(outer|inner|only)/", "<level>/", name)
            found.add(("model", of_level.replace("experts/", "")))
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
    tables = {
        "level": metrics.LEVEL_METRICS,
        "layer": metrics.LAYER_METRICS,
        "model": metrics.MODEL_METRICS,
    }
    listed = [
        (kind, row.name) for kind, table in tables.items() for row in table if row.detail in details
    ]
    assert sorted(listed) == sorted(_names(sums))
    assert all(row.unit and row.meaning and row.formula for each in tables.values() for row in each)


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
    for row in run_metrics.RUN_METRICS:
        assert (row.name in training, row.name in evaluation) == (
            row.where != "evaluation",
            row.where != "training",
        ), row
    assert {row.name for row in run_metrics.RUN_METRICS} == training | evaluation
