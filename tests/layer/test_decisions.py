"""What a layer decided, followed token by token, gives its outputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import hmoe
from hmoe.analysis.decisions import LevelDecisions, columns
from hmoe.analysis.traces import LevelInfo
from hmoe.compat.stack import mtf
from hmoe.layer.decisions import decisions
from tests import seeded, tolerances
from tests.run_layer import Run, run_layer

DIMS = (("outer_batch", 2), ("batch", 2), ("length", 6), ("d_model", 7))
SIZES = (3, 5)

ROUTERS = {
    "top-2": lambda: hmoe.TopKRouter(k=2, weight_norm=1.0),
    "some later choices": lambda: hmoe.TopKRouter(
        k=2, policy_train="threshold", threshold_train=0.3
    ),
    "switch": lambda: hmoe.SwitchRouter(),
    "experts choose": lambda: hmoe.ExpertChoiceRouter(),
}


def layer(outer: str, inner: str, groups: tuple[int, int] = (8, 8)) -> hmoe.HierarchicalMoE:
    return hmoe.HierarchicalMoE(
        levels=[
            # Few slots, so that some choices find no room.
            hmoe.Level(
                name=name,
                num_experts=size,
                router=ROUTERS[router](),
                group_size=group_size,
                capacity_factor_train=1.0,
                min_capacity=1,
            )
            for name, size, router, group_size in zip(
                ("outer", "inner"), SIZES, (outer, inner), groups
            )
        ],
        exact_groups=True,
        experts=hmoe.FeedForwardExperts(hidden_size=11, activation="relu"),
    )


def run(moe: hmoe.HierarchicalMoE, **how: object) -> tuple[Run, list[LevelDecisions]]:
    """Runs a layer, and returns what it decided beside its outputs."""
    capacities, chooses = [], []

    def call(*given: mtf.Tensor, **more: object) -> hmoe.MoEResult:
        result = moe(*given, **more)
        capacities.extend(shape.capacity_dim.size for shape in result.shapes)
        chooses.extend(each.assignment.choices.in_order for each in result.routed)
        found = {
            f"{number} {name}": tensor
            for number, routed in enumerate(result.routed)
            for name, tensor in decisions(routed).items()
        }
        return dataclasses.replace(result, metrics=found)

    found = run_layer(call, seeded.tokens_of(DIMS), DIMS, gradients=False, **how)
    levels = []
    for number, level in enumerate(moe.levels):
        size = level.num_experts
        info = LevelInfo(
            level.name, size, level.router.num_choices(size), "Router", chooses[number]
        )
        arrays = {
            name.partition(" ")[2]: values
            for name, values in found.sums.items()
            if name.startswith(f"{number} ")
        }
        levels.append(LevelDecisions(info, capacities[number], arrays))
    return found, levels


def outputs_of(found: Run, rows: dict[str, np.ndarray], levels: list[LevelDecisions]) -> np.ndarray:
    """Sends each token through the experts that its rows name, one after another."""
    tokens = seeded.tokens_of(DIMS).reshape(-1, DIMS[-1][1]).astype(np.float64)
    # [inner, outer, ...] as variables have them.
    wi, wo = (
        next(v for n, v in found.weights.items() if f"/{name}/" in f"/{n}") for name in ("wi", "wo")
    )
    outputs = np.zeros((len(tokens), wo.shape[-1]))
    arrived = {}
    for index in range(len(rows["place"])):
        row = {name: values[index] for name, values in rows.items()}
        if not row["used"] or row["went"] < 0:
            continue
        place = row["place"]
        if row["level"] == 0:
            info = levels[0].info
            digit = row["expert"] if info.experts_choose else row["rank"]
            arrived[place, digit, row["went"]] = row["weight"]
            continue
        weight = arrived[place, row["path"], row["parent"]] * row["weight"]
        hidden = np.maximum(tokens[place] @ wi[row["went"], row["parent"]], 0)
        outputs[place] += weight * (hidden @ wo[row["went"], row["parent"]])
    return outputs


@pytest.mark.parametrize("inner", ROUTERS)
@pytest.mark.parametrize("outer", ROUTERS)
def test_give_the_outputs_of_the_layer(outer: str, inner: str) -> None:
    found, levels = run(layer(outer, inner))
    rows = columns(levels, np.ones(24, bool))
    assert (rows["went"][rows["used"]] < 0).any() or "choose" in outer + inner
    expected = outputs_of(found, rows, levels)
    assert np.abs(expected).max() > 0.1
    tolerances.assert_close(
        found.outputs.reshape(expected.shape), expected, tolerances.ORACLE, f"{outer}, {inner}"
    )


@pytest.mark.usefixtures("mesh_engine")
def test_are_the_same_on_a_mesh() -> None:
    moe = layer("top-2", "some later choices", groups=(6, 4))
    alone = columns(run(moe)[1], np.ones(24, bool))
    layout = "outer_batch:rows;batch:cols"
    spread = columns(run(moe, mesh_shape="rows:2;cols:2", layout=layout)[1], np.ones(24, bool))
    for name, values in alone.items():
        if name in ("weight", "margin"):
            tolerances.assert_close(spread[name], values, tolerances.MESHES, name)
        else:
            np.testing.assert_array_equal(spread[name], values, err_msg=name)


def test_a_retry_goes_elsewhere() -> None:
    router = hmoe.SwitchRouter(retries=2)
    moe = hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name="only",
                num_experts=5,
                router=router,
                group_size=8,
                capacity_factor_train=1.0,
                min_capacity=1,
            )
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=11, activation="relu"),
    )
    found, levels = run(moe)
    rows = columns(levels, np.ones(24, bool))
    moved = (rows["went"] >= 0) & (rows["went"] != rows["expert"])
    assert moved.any()
    left = rows["place"][rows["went"] < 0]
    np.testing.assert_array_equal(found.outputs.reshape(24, -1)[left], 0)
    assert np.abs(found.outputs.reshape(24, -1)[rows["place"][moved]]).min(axis=1).max() > 0
