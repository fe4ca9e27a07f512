"""What `hmoe plan` shows: searches, formulas, pictures and measured demand, from real plans."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gin
import pytest

import hmoe.t5  # noqa: F401  (registers what gin names)
from hmoe import compat
from hmoe.startup.console import Console
from hmoe.startup.request import PlanFlags, Request
from hmoe.t5.commands import plan

compat.behave_like_v1()

SMALL = (
    "num_blocks = 1",
    "d_model = 16",
    "d_ff = 24",
    "num_heads = 2",
    "d_kv = 8",
    "group_size = 32",
    "inner_group_size = 16",
    "num_outer_experts = 4",
    "num_inner_experts = 2",
    "batch_size = 8",
    "utils.run.sequence_length = {'inputs': 16, 'targets': 16}",
)
# Made up, so that nothing is measured; a device of it has room for what fits below.
HARDWARE = {"name": "box", "peak": 1e12, "memory": 2e6, "fast": 1e9, "slow": 1e8}


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture
def hardware(tmp_path: Path) -> str:
    path = tmp_path / "box.json"
    path.write_text(json.dumps(HARDWARE), encoding="utf-8")
    return str(path)


def shown(model_dir: str = "none", lines: tuple[str, ...] = (), **flags: Any) -> str:
    """What is written to standard output."""
    out = io.StringIO()
    request = Request(
        command="plan",
        model_dir=model_dir,
        gin_file=("runs/tiny.gin", "layouts/cpu_2x2.gin"),
        gin_param=(*SMALL, *lines),
        plan=PlanFlags(**flags),
    )
    plan.plan(request, Console(out, io.StringIO(), answers_only=True))
    return out.getvalue()


def test_tables_and_formulas(hardware: str) -> None:
    found = shown(hardware=hardware, explain=True, prove=True)
    lines = found.splitlines()
    titles = [
        "Multiplications",
        "Bytes sent to other devices",
        "Memory",
        "Mixture layer encoder/block_000/layer_001 and 1 like it",
        "Modelled time on box",
        "Formulas of encoder/block_000/layer_001 and 1 like it",
    ]
    assert [line for line in lines if line in titles] == titles
    assert max(len(line) for line in lines if not line.startswith("formulas")) <= 100
    # The encoder and the decoder have sequences of one length, so that one text serves both.
    assert len(re.findall("^Formulas of ", found, re.MULTILINE)) == 1
    assert "outer dispatch, forward: 0 multiplications" in found
    proof = found[found.index("proof, of one device") :]
    assert proof.count(" yes\n") == len(proof.splitlines()) - 2
    assert proof.count("\nformulas: ") >= 12


def test_a_layer_without_formulas() -> None:
    own = "hmoe.FeedForwardExperts.separate = True"
    found = shown(explain=True, prove=True, lines=(own,))
    assert (
        "\nthere is no formula for experts with separate = True; set it to False, or count the graph instead\n"
        in found
    )
    # The graph itself is compared as ever.
    assert "\nformulas: " not in found
    assert "multiplications in the whole graph" in found


def test_a_search(hardware: str) -> None:
    found = json.loads(shown(hardware=hardware, search=4, json=True))
    own, flat = found["search"]["own"], found["search"]["flat"]
    # Four devices cannot share two inner experts; all else can be trained.
    number = {key: len(own[key]) for key in ("ranked", "too_large", "refused")}
    assert sum(number.values()) == 13
    assert {each["mesh"]["rows"] for each in own["refused"]} <= {4, 1}
    assert own["refused"], own
    assert all(each["refused"] for each in own["refused"])
    seconds = [each["seconds"] for each in own["ranked"]]
    assert seconds == sorted(seconds)
    assert all(each["memory"] <= HARDWARE["memory"] for each in own["ranked"])
    assert all(each["memory"] > HARDWARE["memory"] for each in own["too_large"])
    assert own["front"][0] == own["ranked"][0]
    assert {tuple(each["layout"]) for each in flat["ranked"]} >= {
        ("outer_batch", "batch", "experts")
    }
    gin.clear_config()
    text = shown(hardware=hardware, search=4)
    assert f"The model: the quickest of {number['ranked']} meshes and layouts that fit box" in text
    assert "\nWith one level of as many experts: the quickest of " in text
    best = own["ranked"][0]["mesh"]
    shape = ";".join(f"{axis}:{size}" for axis, size in best.items())
    assert f"--gin_param=\"utils.run.mesh_shape = '{shape}'\"" in text
    assert f"{number['refused']} cannot be trained:" in text
    assert re.search(
        r"\nAt best, a step takes \S+ \S+ with the levels of the model and \S+ \S+ with one level: "
        r"\d\.\d\d times as\nlong\.\n$",
        text,
    )


def test_nothing_fits(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    path.write_text(json.dumps({**HARDWARE, "memory": 1000}), encoding="utf-8")
    found = shown(hardware=str(path), search=2)
    assert "The model: nothing fits box, which has 1.00 kB.\n" in found
    assert " do not fit; the smallest of them needs " in found
    assert "it does not fit" in found
    assert "At best" not in found


def test_pictures(hardware: str, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "pictures"
    shown(hardware=hardware, plot=str(folder))
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        f"{name}.{kind}" for name in ("memory", "slow_axis", "time") for kind in ("png", "svg")
    ]
    for path in folder.glob("*.svg"):
        ElementTree.parse(path)
    text = (folder / "slow_axis.svg").read_text(encoding="utf-8")
    assert "two levels" in text
    assert "one level" in text


def test_a_dense_model_has_no_slow_axis(tmp_path: Path) -> None:
    out = io.StringIO()
    request = Request(
        command="plan",
        model_dir="none",
        gin_file=("models/dense_tiny.gin", "layouts/cpu_2x2.gin"),
        gin_param=(
            *[
                line
                for line in SMALL
                if "inner" not in line
                and "outer" not in line
                and "batch_size" not in line
                and "group_size" not in line
            ],
            "utils.run.batch_size = 8",
        ),
        plan=PlanFlags(plot=str(tmp_path), search=2),
    )
    plan.plan(request, Console(out, io.StringIO(), answers_only=True))
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == ["memory", "time"]
    assert "Mixture layer" not in out.getvalue()
    assert "With one level" not in out.getvalue()
