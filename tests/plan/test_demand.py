"""What a capacity drops of a measured demand, against tables computed by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hmoe.plan import demand as demand_module
from hmoe.plan.demand import demand


def numbers_of(
    prefix: str, loads: list[float], routed: list[float], usage: float, imbalance: float
) -> dict[str, float]:
    return {
        f"{prefix}/expert_usage": usage,
        f"{prefix}/load_imbalance": imbalance,
        **{f"{prefix}/fraction_routed_rank_{rank}": share for rank, share in enumerate(routed)},
        **{f"{prefix}/load_{expert}": share for expert, share in enumerate(loads)},
    }


# Half of two choices a token in 0.625 of the slots: 0.8 slots a choice, 0.2 for each of 4 experts.
OUTER_OF_ENCODER = numbers_of(
    "encoder/block_000/layer_001/outer", [0.4, 0.3, 0.2, 0.1], [0.75, 0.25], 0.625, 1.6
)
# 0.5 slots a choice, 0.1 for each of 5 experts, all wanted equally in the sum of siblings.
INNER_OF_ENCODER = numbers_of("encoder/block_000/layer_001/inner", [0.2] * 5, [0.5], 1.0, 3.0)
# 0.9 / 0.75 = 1.2 slots a choice, 0.3 for each of 4 experts.
OUTER_OF_DECODER = numbers_of(
    "decoder/block_002/layer_002/outer", [0.1, 0.1, 0.1, 0.7], [0.9, 0.9], 0.75, 2.8
)


def write(folder: Path, *lines: dict[str, float] | str) -> str:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metrics.jsonl").write_text("".join(f"{text}\n" for text in texts))
    return str(folder)


def test_one_level_by_hand(tmp_path: Path) -> None:
    (level,) = demand(write(tmp_path, {"step": 7, **OUTER_OF_ENCODER})).levels
    (layer,) = level.layers
    assert (layer.layer, layer.level) == ("encoder/block_000/layer_001", "outer")
    assert layer.slots_per_choice == pytest.approx(0.8)
    assert level.unplaced == pytest.approx(0.5)
    # 0.1 slots each: all but 0.4 are over; 0.2: 0.2 + 0.1; 0.3: 0.1; 0.4: none.
    for multiple, dropped in ((0.5, 0.6), (1.0, 0.3), (1.5, 0.1), (2.0, 0.0), (3.0, 0.0)):
        assert level.dropped(multiple) == pytest.approx(dropped), multiple


def test_siblings_may_differ_where_their_sum_is_even(tmp_path: Path) -> None:
    (level,) = demand(write(tmp_path, {"step": 7, **INNER_OF_ENCODER})).levels
    # The sum of loads is over by 1 - c; the most wanted sibling has 3 / 5, less what it has room for.
    for multiple, dropped in ((0.5, 0.75), (1.0, 0.5), (2.0, 0.4), (4.0, 0.2)):
        assert level.dropped(multiple) == pytest.approx(dropped), multiple


def test_mean_over_layers(tmp_path: Path) -> None:
    line = {"step": 7, **OUTER_OF_ENCODER, **INNER_OF_ENCODER, **OUTER_OF_DECODER}
    outer, inner = demand(write(tmp_path, line)).levels
    assert [len(level.layers) for level in (outer, inner)] == [2, 1]
    assert outer.dropped(1.0) == pytest.approx((0.3 + 0.4) / 2)
    assert outer.dropped(2.0) == pytest.approx((0.0 + 0.1) / 2)
    assert outer.unplaced == pytest.approx((0.5 + 0.1) / 2)


def test_drops_no_more_than_groups_do(tmp_path: Path) -> None:
    """Tokens one by one: a sum over groups that differ, with 2 slots an expert in each."""
    groups = [[5, 1, 0], [0, 2, 4], [3, 3, 0]]
    choices, slots = 18, 2
    placed = sum(min(count, slots) for group in groups for count in group)
    loads = [sum(counts) / choices for counts in zip(*groups)]
    line = numbers_of("a/b", loads, [placed / choices], placed / (slots * 9), max(loads) * 3)
    (level,) = demand(write(tmp_path, {"step": 3, **line})).levels
    for capacity in (1, 2, 3, 4, 5):
        lost = sum(max(0, count - capacity) for group in groups for count in group) / choices
        assert level.dropped(capacity / slots) <= lost + 1e-9
    # One slot an expert: 8, 6 and 4 choices for the three slots of each in all. The groups lose 12,
    # since each has a slot that no choice is for.
    assert level.dropped(0.5) == pytest.approx(0.5)


def test_the_last_line_that_has_them(tmp_path: Path) -> None:
    brief = {"step": 9, "a/outer/load_imbalance": 1.5}
    torn = '{"step": 12, "a/outer/load_0": 0.'
    early = {"step": 3, **numbers_of("a/outer", [0.5, 0.5], [1.0], 1.0, 1.0)}
    found = demand(write(tmp_path, early, {"step": 6, **OUTER_OF_ENCODER}, brief, torn))
    assert found.step == 6
    assert found.levels[0].layers[0].loads == (0.4, 0.3, 0.2, 0.1)


def test_the_table(tmp_path: Path) -> None:
    line = {"step": 1500, **OUTER_OF_ENCODER, **INNER_OF_ENCODER}
    found = demand(write(tmp_path, line)).table({"outer": 1.25})
    rows = [" ".join(row.split()) for row in found.splitlines() if row.strip()]
    assert rows[:2] == [
        "Choices that a capacity would drop, at the least",
        "level x 0.5 x 0.75 x 1 x 1.25 x 1.5 x 2 x 3 x 4 in training",
    ]
    # 0.15 slots for each expert at 0.75: 0.25 + 0.15 + 0.05; 0.25 at 1.25: 0.15 + 0.05.
    assert rows[3:6] == [
        "outer 60.0% 45.0% 30.0% 20.0% 10.0% 0.0% 0.0% 0.0% 50.0%",
        "slots a token 0.625 0.938 1.25 1.56 1.88 2.5 3.75 5 1.25",
        "inner 75.0% 62.5% 50.0% 47.5% 45.0% 40.0% 30.0% 20.0% 50.0%",
    ]
    assert "step 1,500 of" in found
    assert "A lower bound" in found


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        demand(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path} has no metrics.jsonl, which training writes, so that no demand is known; name the folder of a training run"
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"step": 3, "lo', "has no whole line of metrics yet; train until the first is written"),
        (
            {"step": 3, "loss": 2.0},
            'has no load of experts (load_<i>), which a model with mixture layers writes with hmoe.HierarchicalMoE.metrics = "full"; train some steps so',
        ),
        (
            {"step": 3, "a/outer/load_imbalance": 1.5},
            'has the largest load of each level, but not the load of each expert (load_<i>), which a model with mixture layers writes with hmoe.HierarchicalMoE.metrics = "full"; train some steps so',
        ),
        (
            {"step": 3, **numbers_of("a/outer", [0.5, 0.5], [1.3], 1.0, 1.0)},
            "shows no demand of tokens for experts: at every level experts choose tokens, or no token came; name a run whose routers send tokens to experts",
        ),
    ],
)
def test_not_what_is_needed(tmp_path: Path, line: dict[str, float] | str, says: str) -> None:
    with pytest.raises(ValueError) as error:
        demand(write(tmp_path, line))
    assert str(error.value) == f"{tmp_path}/metrics.jsonl {says}"


def test_without_tensorflow() -> None:
    code = f"import sys, {demand_module.__name__}; print('tensorflow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
