"""Closed formulas of a layer's costs: by hand, and beside counting and lowering the real graph."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings

from hmoe.compat.stack import tf
from hmoe.plan import formulas
from hmoe.plan.costs import (
    ALL_REDUCE,
    ALL_TO_ALL,
    BACKWARD,
    DISPATCH,
    EXPERTS,
    FORWARD,
    OTHER,
    ROUTER,
    Exchange,
    LayerPlan,
    LevelPlan,
    Place,
)
from hmoe.plan.explain import explain
from hmoe.plan.formulas import layer_costs
from hmoe.plan.layer_case import FeedForwardCase, LayerCase, LevelCase, RouterCase
from hmoe.plan.layer_sizes import layer_plan
from tests.plan import lowered
from tests.plan.layer_cases import layer_cases, step_of, text_of

SWITCH = RouterCase(kind="switch")
TOP_2 = RouterCase(kind="top_k", k=2, weight_norm=1.0)
COLS = ("cols",)

# One level on two devices, of which each has 6 tokens, one group, and 2 of 4 experts. A group has
# 4 * 2 slots, since one for each expert, 6 / 4 rounded down, is raised by the minimum.
SMALL = LayerCase(
    levels=(
        LevelCase(
            name="outer",
            num_experts=4,
            router=SWITCH,
            capacity_factor=1.0,
            group_size=6,
            min_capacity=2,
        ),
    ),
    experts=FeedForwardCase(hidden_size=7),
    d_model=5,
    output_dim=8,
    outer_batch=1,
    batch=4,
    length=3,
    mesh={"cols": 2},
    layout={"batch": "cols", "experts": "cols"},
    metrics="off",
)

# Two levels on 2 x 3 devices, as the README lays them out.
TWO = LayerCase(
    levels=(
        LevelCase(
            name="outer",
            num_experts=6,
            router=TOP_2,
            capacity_factor=1.25,
            group_size=5,
            min_capacity=1,
        ),
        LevelCase(
            name="inner",
            num_experts=4,
            router=TOP_2,
            capacity_factor=1.0,
            group_size=7,
            min_capacity=1,
        ),
    ),
    experts=FeedForwardCase(hidden_size=10),
    d_model=7,
    output_dim=11,
    outer_batch=2,
    batch=6,
    length=5,
    mesh={"rows": 2, "cols": 3},
    layout={
        "outer_batch": "rows",
        "batch": "cols",
        "expert_x": "cols",
        "expert_y": "rows",
        "expert_hidden": "model",
        "d_ff": "model",
    },
)


def place(part: str, phase: str) -> Place:
    return Place(part, "outer" if part in (ROUTER, DISPATCH) else "", phase)


def test_multiplications_by_hand():
    softmax = 2 * 6 * 4 + 6
    assert layer_costs(SMALL).multiplications == {
        # Logits [6, 4] of depth 5; each of 2 rounds of choices among 4 probabilities, and kept.
        place(ROUTER, FORWARD): 6 * 4 * 5 + 6 * 2 * 4 + 6 * 2,
        # Gradients of inputs and of the kernel, then the same.
        place(ROUTER, BACKWARD): 2 * 6 * 4 * 5 + 6 * 2 * 4 + 6 * 2 + softmax,
        # 2 experts have 2 slots each of 2 groups.
        place(EXPERTS, FORWARD): 8 * (5 * 7 + 7 * 8),
        place(EXPERTS, BACKWARD): 2 * 8 * (5 * 7 + 7 * 8),
        # Probabilities of full tokens, times the load, over the tokens of a group, and of all;
        # squares of logits, their mean; and each loss times its weight.
        place(OTHER, FORWARD): (6 * 4 + 4 + 1 + 1) + (6 + 1) + 2,
        place(OTHER, BACKWARD): 6 * 4 + 4 + 1 + 1,
    }


def test_bytes_by_hand():
    # 4 * 2 slots of 5 and of 8 float32, half of which go to the other device.
    there, back = 4 * 2 * 5 * 4 // 2, 4 * 2 * 8 * 4 // 2
    assert set(layer_costs(SMALL).exchanges) == {
        Exchange(ALL_TO_ALL, COLS, place(DISPATCH, FORWARD), there + back, 2),
        Exchange(ALL_TO_ALL, COLS, place(DISPATCH, BACKWARD), there + back, 2),
        # The gradient of the gate's kernel [5, 4], of which a ring of two sends half twice.
        Exchange(ALL_REDUCE, COLS, place(ROUTER, BACKWARD), 5 * 4 * 4, 1),
        # Full tokens; sum and number of the balance loss; sum and number of the z-loss.
        Exchange(ALL_REDUCE, COLS, place(OTHER, FORWARD), 5 * 4, 5),
    }


def test_tpus_send_tokens_as_bfloat16():
    costs = layer_costs(dataclasses.replace(SMALL, on_tpu=True))
    sent = {each.place: each.size for each in costs.exchanges if each.kind == ALL_TO_ALL}
    half = (4 * 2 * 5 * 2 + 4 * 2 * 8 * 2) // 2
    assert sent == {place(DISPATCH, FORWARD): half, place(DISPATCH, BACKWARD): half}


def test_microbatches_sum_gradients_of_weights_once():
    costs = layer_costs(dataclasses.replace(SMALL, num_microbatches=3))
    found = {(each.kind, each.place): each for each in costs.exchanges}
    assert found[ALL_REDUCE, place(ROUTER, BACKWARD)].count == 1
    assert found[ALL_TO_ALL, place(DISPATCH, BACKWARD)].count == 6
    assert costs.multiplied(EXPERTS, FORWARD) == 3 * 8 * (5 * 7 + 7 * 8)


def test_sizes_of_levels():
    # 30 tokens of one outer batch make 6 groups of 5, with 5 * 1.25 / 6 slots, raised to 1. An
    # outer expert has 2 * 6 slots, in 2 groups of 6, with 6 / 4 slots.
    assert layer_plan(TWO, "decoder/layer") == LayerPlan(
        name="decoder/layer",
        levels=(
            LevelPlan("outer", 6, 2, 5, 2 * 6, 1, 5 * 1.25 / 6, "cols", 3, 5),
            LevelPlan("inner", 4, 2, 6, 2, 1, 1.5, "rows", 2, 7),
        ),
        tokens=60,
        slots=24 * 2,
        experts=24,
    )


def changed(case: LayerCase = TWO, **fields: object) -> LayerCase:
    return dataclasses.replace(case, **fields)


# On fewer devices, which are lowered in less time.
NARROW = changed(mesh={"cols": 3})


def with_levels(case: LayerCase = NARROW, **fields: object) -> LayerCase:
    return changed(case, levels=tuple(dataclasses.replace(each, **fields) for each in case.levels))


def with_router(case: LayerCase = NARROW, **fields: object) -> LayerCase:
    return with_levels(case, router=RouterCase(**fields))


def with_experts(**fields: object) -> LayerCase:
    return changed(NARROW, experts=FeedForwardCase(hidden_size=10, **fields))


def with_layout(mesh: dict[str, int], **rules: str) -> LayerCase:
    return changed(mesh=mesh, layout=rules)


THREE = changed(
    levels=(
        *TWO.levels,
        LevelCase(
            name="third",
            num_experts=2,
            router=SWITCH,
            capacity_factor=1.0,
            group_size=3,
            min_capacity=1,
        ),
    )
)
SPLIT_HIDDEN = changed(mesh={"rows": 2, "model": 2}, shared_expert=FeedForwardCase(hidden_size=4))

CASES: dict[str, LayerCase] = {
    "one-level": SMALL,
    "one-level-on-two-axes": changed(
        SMALL,
        mesh={"rows": 2, "cols": 2},
        layout={"outer_batch": "rows", "batch": "cols", "experts": "cols"},
        outer_batch=2,
    ),
    "two-levels": TWO,
    "two-levels-on-one-device": changed(mesh={}, layout={}),
    "three-levels": THREE,
    "axes-of-one-device": changed(mesh={"rows": 1, "cols": 3, "model": 1}),
    "no-backward-pass": changed(train=False),
    "metrics-off": changed(NARROW, metrics="off"),
    "metrics-full": changed(metrics="full"),
    "einsum": changed(engine="einsum"),
    "bfloat16": changed(NARROW, activation_bytes=2),
    "no-importance": changed(NARROW, has_importance=False),
    "switch": with_router(kind="switch"),
    "uniform": with_router(kind="uniform", k=3, weight_norm=1.0),
    "expert-choice": with_router(kind="expert_choice", gate_function="sigmoid"),
    "expert-choice-over-tokens": with_router(kind="expert_choice", softmax_over="tokens"),
    "evenness-over-positions": with_levels(
        router=RouterCase(kind="expert_choice", softmax_over="tokens"),
        balance_loss_mean_over="positions",
    ),
    "p-norm-and-retries": with_router(kind="top_k", k=2, weight_norm=2.0, retries=1),
    "retries-of-switch": with_router(kind="switch", retries=2, priority=True),
    "sigmoid-gate": with_router(kind="top_k", k=3, gate_function="sigmoid", gate_bias=True),
    "disturbed-gate": with_router(kind="switch", jitter=True, input_dropout=True, explores=True),
    "balance-bias": with_router(changed(NARROW, metrics="off"), kind="top_k", k=2, moves_bias=True),
    "no-balance-loss": with_levels(balance_loss_coef=0.0, z_loss_coef=0.1),
    "second-place-loss": with_levels(second_place_loss=True, z_loss_coef=0.1),
    "balance-over-batch": with_levels(balance_loss_over="batch"),
    "balance-over-positions": with_levels(
        balance_loss_over="batch", balance_loss_mean_over="positions"
    ),
    "balance-over-examples": with_levels(balance_loss_over="example", second_place_loss=True),
    "examples-per-group": with_levels(examples_per_group=2.0),
    "gated-experts": with_experts(activations=("gelu", "swish", "linear"), use_bias=True),
    "dropout": with_experts(dropout=True, output_dropout=True),
    "two-outputs": with_experts(num_outputs=2),
    "hidden-split": SPLIT_HIDDEN,
    "hidden-split-and-biases": changed(
        SPLIT_HIDDEN,
        experts=FeedForwardCase(hidden_size=6, activations=("relu", "linear"), use_bias=True),
        shared_expert=FeedForwardCase(hidden_size=4, activations=("swish", "linear")),
    ),
    # A sum over devices waits behind a reshape that moves nothing.
    "hidden-split-alone": changed(mesh={"model": 2}),
    "experts-whole": with_layout({"cols": 3}, batch="cols"),
    "batch-whole": with_layout({"cols": 3}, expert_x="cols"),
    "microbatches": changed(NARROW, num_microbatches=3, experts=SPLIT_HIDDEN.experts),
    "microbatches-of-bfloat16": changed(
        NARROW,
        num_microbatches=2,
        activation_bytes=2,
        experts=FeedForwardCase(hidden_size=10, use_bias=True),
        shared_expert=FeedForwardCase(hidden_size=4, use_bias=True),
    ),
    "crossed": with_layout({"rows": 2, "cols": 2}, batch="cols", expert_x="rows", expert_y="cols"),
}


def assert_equal_to_lowering(case: LayerCase) -> None:
    """Compares formulas and counting with what the real graph multiplies and sends, by place."""
    with tf.Graph().as_default():
        step = step_of(case)
        mesh, layout = text_of(case.mesh), text_of(case.layout)
        found = lowered.lowered(step, step.exported[0], mesh, layout, on_tpu=case.on_tpu)
        multiplications, exchanges = lowered.costs_of(step, found)
        counted = lowered.counted(step, mesh, layout, on_tpu=case.on_tpu)
    costs = layer_costs(case)
    assert costs.multiplications == multiplications == counted.multiplications
    assert set(costs.exchanges) == set(exchanges) == set(counted.exchanges)


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_equal_to_lowering(case: LayerCase):
    assert_equal_to_lowering(case)


def _property(max_examples: int, **how: int | bool) -> Callable:
    def decorate(test: Callable) -> Callable:
        checked = settings(
            max_examples=max_examples,
            deadline=None,
            derandomize=True,  # a failure returns on every machine
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.filter_too_much,
                HealthCheck.function_scoped_fixture,
            ],
        )
        return checked(given(layer_cases(**how))(test))

    return decorate


@_property(10, max_devices=4)
def test_equal_to_lowering_of_random_layers(case: LayerCase):
    assert_equal_to_lowering(case)


@pytest.mark.slow
@_property(200)
def test_equal_to_lowering_of_more_random_layers(case: LayerCase):
    assert_equal_to_lowering(case)


@pytest.fixture
def tpu_slices() -> None:
    pytest.importorskip("tensorflow.python.tpu.topology")


ON_TPU = {
    "two-levels": changed(on_tpu=True, engine="einsum"),
    "bfloat16": changed(on_tpu=True, engine="einsum", activation_bytes=2),
    "gathered": changed(on_tpu=True, mesh={"cols": 3}, layout={"batch": "cols"}),
    "gathered-bfloat16": changed(
        on_tpu=True, mesh={"cols": 3}, layout={"batch": "cols"}, activation_bytes=2
    ),
}


@pytest.mark.usefixtures("tpu_slices")
@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in ON_TPU.items()])
def test_equal_to_lowering_for_tpus(case: LayerCase):
    assert_equal_to_lowering(case)


@pytest.mark.slow
@pytest.mark.usefixtures("tpu_slices")
@_property(60, on_tpu=True)
def test_equal_to_lowering_of_random_layers_for_tpus(case: LayerCase):
    assert_equal_to_lowering(case)


def test_formulas_load_no_tensorflow():
    code = (
        "import sys; import hmoe.plan.formulas, hmoe.plan.explain;"
        "print([each for each in ('tensorflow', 'mesh_tensorflow') if each in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def pod(rows: int, cols: int) -> LayerCase:
    """A layer with as many experts as there are devices."""
    outer, inner = TWO.levels
    return changed(
        levels=(
            dataclasses.replace(outer, num_experts=cols, group_size=1024),
            dataclasses.replace(inner, num_experts=rows, group_size=1024),
        ),
        mesh={"rows": rows, "cols": cols},
        outer_batch=rows,
        batch=4 * cols,
        length=512,
    )


def calls_for(case: LayerCase) -> int:
    """Returns how many functions are called to compute the costs of a layer."""
    number = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        layer_costs(case)
    finally:
        sys.setprofile(None)
    return number


def test_work_does_not_grow_with_devices():
    few, many = pod(2, 2), pod(64, 32)
    # Measured for 2,048 experts on 2,048 devices: 1.0 ms.
    assert calls_for(many) == calls_for(few)
    assert len(formulas.layer_terms(many)) == len(formulas.layer_terms(few))


def test_explanation_of_a_small_layer():
    lines = explain(SMALL).splitlines()
    assert lines[:15] == [
        "One device, one step. Bytes are those that it sends, rounded down in each exchange.",
        "  A = 1: outer_batch",
        "  B = 4: batch, split over 2 devices of cols",
        "  L = 3: length",
        "  M = 5: d_model",
        "  N = 8: output_dim",
        "  F = 7: expert_hidden",
        "  X = 4: experts of outer, split over 2 devices of cols",
        "  G = 2: groups of outer, split over 2 devices of cols",
        "  S = 6: tokens of a group of outer",
        "  C = 2: slots of an expert of outer for a group",
        "  Kx = 2: rounds of choices of outer",
        "",
        "outer router, forward: 180 multiplications, 0 B",
        "  logits: A * G/2 * S * X * M = 1 * 1 * 6 * 4 * 5 = 120",
    ]
    assert "outer dispatch, forward: 0 multiplications, 208 B" in lines
    # The whole would be longer than 100 columns.
    at = lines.index("  tokens, all-to-all over cols: X * A * G/2 * C * M * 4 B * (2 - 1) / 2")
    assert lines[at + 1] == "      = 4 * 1 * 1 * 2 * 5 * 4 B * (2 - 1) / 2 = 80 B"
    assert "losses and metrics, backward: 30 multiplications, 0 B" in lines


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_explanations_fit_100_columns(case: LayerCase):
    assert max(map(len, explain(case).splitlines())) <= 100


def small(**fields: object) -> Callable[[], object]:
    return lambda: changed(SMALL, **fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            small(layout={"d_model": "cols"}),
            "LayerCase: layout rule 'd_model:cols' splits a dimension that no formula covers;"
            " remove the rule, or count the graph instead",
            id="depth-split",
        ),
        pytest.param(
            lambda: changed(THREE, layout={"expert_z": "rows"}),
            "LayerCase: layout rule 'expert_z:rows' splits the experts of a third level, but a T5"
            " has two batch dimensions to exchange them for; remove the rule, or use two levels",
            id="third-level-split",
        ),
        pytest.param(
            small(layout={"outer_batch": "cols", "batch": "cols"}),
            "layout rules 'outer_batch:cols' and 'batch:cols': one tensor has both dimensions, and"
            " mesh axis 'cols' can split only one of them; give them different axes",
            id="axis-used-twice",
        ),
        pytest.param(
            small(batch=3),
            "LayerCase: batch has size 3, which the 2 devices of mesh axis 'cols' cannot share; use"
            " a multiple of 2 or another layout",
            id="batch-not-divided",
        ),
        pytest.param(small(levels=()), "LayerCase: there are 0 levels; give 1 to 3", id="no-level"),
        pytest.param(
            small(engine="auto"),
            "LayerCase: engine is 'auto'; it must be one of index, einsum",
            id="engine",
        ),
        pytest.param(
            small(activation_bytes=8),
            "LayerCase: activation_bytes is 8; it must be 2 or 4",
            id="bytes",
        ),
        pytest.param(small(length=0), "LayerCase: length is 0; it must be at least 1", id="length"),
        pytest.param(
            lambda: FeedForwardCase(hidden_size=3, activations=("tanh",)),
            "FeedForwardCase: there is no formula for activation 'tanh'; use one of linear, relu,"
            " gelu, swish, or count the graph instead",
            id="activation",
        ),
        pytest.param(
            lambda: RouterCase(kind="hash"),
            "RouterCase: kind is 'hash'; it must be one of top_k, switch, uniform, expert_choice",
            id="router",
        ),
        pytest.param(
            lambda: RouterCase(kind="switch", k=2),
            "RouterCase: kind is 'switch', but k is 2; use k = 1, or top_k",
            id="choices-of-switch",
        ),
        pytest.param(
            lambda: RouterCase(kind="top_k", k=0),
            "RouterCase: k is 0; a token has at least 1 choice",
            id="no-choice",
        ),
        pytest.param(
            small(
                experts=FeedForwardCase(hidden_size=3, num_outputs=2),
                shared_expert=FeedForwardCase(hidden_size=3),
            ),
            "LayerCase: the experts have 2 outputs and the shared expert 1, which cannot be added;"
            " give each one output, or set shared_expert to None",
            id="shared-expert",
        ),
        pytest.param(
            lambda: layer_costs(changed(SMALL, length=1, batch=14)),
            "level 'outer': the 7 tokens of each of 2 device(s) have no divisor between 4 (the"
            " number of experts) and group_size = 6; the largest is 1. Change the batch size or the"
            " sequence length, or set group_size = 7",
            id="group-size",
        ),
    ],
)
def test_refuses_what_no_formula_covers(make: Callable, message: str):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message
