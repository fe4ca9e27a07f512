"""Every router, gate and balance at every level, against the loop oracle."""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from tests import ask_oracle, oracle, reference, seeded
from tests.run_layer import run_layer

X5 = dict(
    num_experts=5,
    group_size=18,
    min_capacity=1,
    capacity_factor_train=1.0,
    capacity_factor_eval=1.0,
)
Y4 = dict(num_experts=4, group_size=10, min_capacity=1)
LOSSES = dict(z_loss_coef=0.02, balance_loss_coef=0.05)
SECOND = dict(LOSSES, second_place_loss=True)


def flat(router, **level):
    return [hmoe.Level(name="only", router=router, **dict(X5, **level))]


def two(outer, inner=None, both=None, at_outer=None, at_inner=None):
    """Two levels, of one router or of two; `both` are settings of either."""
    both = both or {}
    return [
        hmoe.Level(name="outer", router=outer, **dict(X5, **both, **(at_outer or {}))),
        hmoe.Level(name="inner", router=inner or outer, **dict(Y4, **both, **(at_inner or {}))),
    ]


def three(a, b, c, **both):
    return [
        hmoe.Level(
            name="a",
            router=a,
            num_experts=2,
            group_size=18,
            min_capacity=1,
            capacity_factor_train=0.8,
            **both,
        ),
        hmoe.Level(
            name="b",
            router=b,
            num_experts=3,
            group_size=18,
            min_capacity=1,
            capacity_factor_train=1.3,
            **both,
        ),
        hmoe.Level(name="c", router=c, num_experts=5, group_size=6, min_capacity=1, **both),
    ]


def top(k=2, policy="all", gate=None, **more):
    """Of another policy in evaluation."""
    return hmoe.TopKRouter(
        k=k, policy_train=policy, policy_eval="none", gate=gate and hmoe.Gate(**gate), **more
    )


def switch(gate=None, **more):
    return hmoe.SwitchRouter(gate=gate and hmoe.Gate(**gate), **more)


def uniform(k=1, **more):
    return hmoe.UniformRouter(k=k, **more)


def choice(over="experts", gate=None):
    return hmoe.ExpertChoiceRouter(softmax_over=over, gate=gate and hmoe.Gate(**gate))


SAMPLE = dict(selection_train="sample", temperature=0.7)
NO_SAMPLE = dict(selection_train="sample", selection_eval="argmax")
# Where all choices fill all buffers, no retry finds any.
ROOM = dict(capacity_factor_train=2.2)
SIGMOID = dict(function="sigmoid")
EXPLORE = dict(explore_probability=0.4)
SAMPLE_REST = dict(explore_probability=0.5, explore_temperature=0.8)
NO_OUTER = {"dims": (("batch", 6), ("length", 12), ("d_model", 7))}
EVAL = {"train": False}

SWITCH = {
    "switch-1": (flat(switch()), {}),
    "switch-2": (two(switch(), both=LOSSES), {}),
    "switch-sample-1": (flat(switch(**SAMPLE)), {}),
    "switch-sample-2": (two(switch(**SAMPLE), both=LOSSES), {}),
    "switch-sample-eval-2": (two(switch(selection_eval="sample")), EVAL),
    "switch-no-sample-eval-2": (two(switch(**NO_SAMPLE)), EVAL),
    "switch-max-1": (flat(switch(priority=True)), {}),
    "switch-max-2": (two(switch(priority=True), both=LOSSES), {}),
    "ntlb-1": (flat(switch(retries=1)), {}),
    "ntlb-2": (two(switch(retries=2), both=LOSSES), {}),
    "ntlb-more-than-experts-2": (two(switch(retries=9)), {}),
    "ntlb-sample-2": (two(switch(retries=2, **SAMPLE)), {}),
    "ntlb-max-2": (two(switch(retries=2, priority=True)), {}),
}
TOP_K = {
    "priority-k2": (two(top(priority=True), both=SECOND), {}),
    "priority-k3-random": (two(top(3, "random", priority=True, threshold_train=0.4)), {}),
    "retries-1": (flat(top(retries=2)), {}),
    "retries-2": (two(top(retries=2), both=dict(SECOND, **ROOM)), {}),
    "retries-k3-all-experts": (two(top(3, retries=9), both=dict(capacity_factor_train=2.6)), {}),
    "retries-random": (two(top(2, "random", retries=1, threshold_train=0.6), both=ROOM), {}),
    "retries-no-norm": (two(top(2, retries=2, weight_norm=None), both=ROOM), {}),
    "retries-p-norm": (two(top(2, retries=2, weight_norm=3.0), both=ROOM), {}),
    "retries-priority": (two(top(2, retries=2, priority=True), both=ROOM), {}),
    "retries-inner-only": (two(top(), top(2, retries=2), at_inner=ROOM), {}),
    "bias-1": (flat(top(bias_update_rate=0.01)), {}),
    "bias-2": (two(top(bias_update_rate=0.01), both=SECOND), {}),
    "bias-switch-inner": (two(top(), switch(bias_update_rate=0.01)), {}),
    "bias-eval": (two(hmoe.TopKRouter(k=2, bias_update_rate=0.01)), EVAL),
    "bias-sigmoid-retries-priority": (
        two(
            top(3, bias_update_rate=0.01, gate=SIGMOID, retries=1, priority=True),
            both=dict(capacity_factor_train=3.2),
        ),
        {},
    ),
}
GATES = {
    "sigmoid-k1": (two(top(1, gate=SIGMOID), both=LOSSES), {}),
    "sigmoid-k2": (two(top(2, gate=SIGMOID), both=SECOND), {}),
    "sigmoid-k3-no-norm": (flat(top(3, gate=SIGMOID, weight_norm=None)), {}),
    "sigmoid-switch-priority": (two(switch(gate=SIGMOID, priority=True)), {}),
    "bias-of-gate": (two(top(gate=dict(use_bias=True))), {}),
    "bias-of-sigmoid-gate-1": (flat(top(gate=dict(SIGMOID, use_bias=True))), {}),
    "jitter": (two(top(gate=dict(jitter=0.3))), {}),
    "jitter-and-dropout": (two(switch(gate=dict(jitter=0.2, input_dropout=0.3))), {}),
    "dropout-1": (flat(switch(gate=dict(input_dropout=0.4))), {}),
    "no-jitter-in-eval": (
        two(hmoe.TopKRouter(k=2, gate=hmoe.Gate(jitter=0.3, input_dropout=0.3))),
        EVAL,
    ),
    "concat-1": (flat(top(gate=dict(word_embeddings="concat"))), {}),
    "concat": (two(top(gate=dict(word_embeddings="concat"))), {}),
    "add": (two(top(gate=dict(word_embeddings="add"))), {}),
    "embed-only": (two(top(gate=dict(word_embeddings="embed_only"))), {}),
    "concat-stop": (two(top(gate=dict(word_embeddings="concat_stop_grad"))), {}),
    "add-stop": (two(top(gate=dict(word_embeddings="add_stop_grad"))), {}),
    "embed-only-stop": (two(top(gate=dict(word_embeddings="embed_only_stop_grad"))), {}),
    "words-inner-with-jitter": (
        two(top(), top(gate=dict(word_embeddings="concat", jitter=0.2))),
        {},
    ),
    "words-outer": (two(top(gate=dict(word_embeddings="add")), top()), {}),
    "words-no-outer-batch": (two(top(), switch(gate=dict(word_embeddings="embed_only"))), NO_OUTER),
    "words-innermost-of-three": (three(top(), top(), top(gate=dict(word_embeddings="concat"))), {}),
    "explore-k2": (two(top(2, gate=EXPLORE), both=SECOND), {}),
    "explore-sigmoid": (two(top(2, gate=dict(EXPLORE, **SIGMOID))), {}),
    "explore-sampled": (two(switch(gate=SAMPLE_REST), both=LOSSES), {}),
    "explore-sampled-1": (flat(top(1, gate=SAMPLE_REST)), {}),
    "no-exploring-in-eval": (two(switch(gate=SAMPLE_REST)), EVAL),
}
OTHERS = {
    "uniform-1": (flat(uniform()), {}),
    "uniform-k2-norm": (two(uniform(2, weight_norm=1.0), both=SECOND), {}),
    "uniform-k3": (two(uniform(3)), {}),
    "uniform-outer": (two(uniform(2), top()), {}),
    "uniform-inner": (two(top(), uniform(2, weight_norm=2.0)), {}),
    "experts-choose-1": (flat(choice(), **LOSSES), {}),
    "experts-choose-2": (two(choice(), both=LOSSES), {}),
    "experts-choose-over-tokens-1": (flat(choice("tokens"), **LOSSES), {}),
    "experts-choose-over-tokens-2": (two(choice("tokens"), both=LOSSES), {}),
    "experts-choose-sigmoid": (two(choice("experts", SIGMOID), both=LOSSES), {}),
    "experts-choose-by-words": (two(choice("tokens", dict(word_embeddings="add"))), {}),
    "experts-choose-eval": (two(choice("tokens")), EVAL),
    "experts-choose-outer": (two(choice(), top(), both=LOSSES), {}),
    "experts-choose-over-tokens-outer": (two(choice("tokens"), top(retries=1)), {}),
    "experts-choose-inner": (two(top(), choice(), both=LOSSES), {}),
    "experts-choose-over-tokens-inner": (two(top(), choice("tokens"), both=LOSSES), {}),
    "experts-choose-no-outer-batch": (two(choice(), switch(retries=1)), NO_OUTER),
    "three-kinds": (three(choice("tokens"), top(retries=1), switch(**SAMPLE), **LOSSES), {}),
    "three-other-kinds": (
        three(switch(priority=True), choice(), top(bias_update_rate=0.01), **LOSSES),
        {},
    ),
}
BALANCE = {
    f"balance-{over}-{choices}{name}": (
        build(dict(SECOND, balance_loss_over=over, balance_loss_choices=choices)),
        {},
    )
    for over in ("group", "example", "batch")
    for choices in ("first", "all")
    if (over, choices) != ("group", "first")
    for name, build in {
        "": lambda more: two(top(), both=more),
        "-1": lambda more: flat(top(3), **more),
    }.items()
}
BALANCE.update(
    {
        "balance-example-sigmoid": (
            two(top(gate=SIGMOID), both=dict(SECOND, balance_loss_over="example")),
            {},
        ),
        "balance-example-three": (three(top(), top(), top(), balance_loss_over="example"), {}),
        "balance-example-no-outer-batch": (
            two(top(), both=dict(SECOND, balance_loss_over="example")),
            NO_OUTER,
        ),
        "balance-batch-outer-experts-choose": (
            two(choice(), top(), at_inner=dict(SECOND, balance_loss_over="example")),
            {},
        ),
        "balance-example-retries": (
            two(
                top(retries=2),
                both=dict(LOSSES, balance_loss_over="example", balance_loss_choices="all", **ROOM),
            ),
            {},
        ),
        "balance-example-k1": (two(switch(), both=dict(LOSSES, balance_loss_over="example")), {}),
    }
)
GROUPS = {
    "examples-per-group": (
        two(top(), at_outer=dict(examples_per_group=1.5), at_inner=dict(examples_per_group=2.0)),
        {},
    ),
    "part-of-an-example-per-group": (
        two(top(), at_outer=dict(examples_per_group=0.75), at_inner=dict(group_size=4)),
        {},
    ),
    "examples-per-group-experts-choose": (
        two(choice(), at_outer=dict(examples_per_group=1), at_inner=dict(examples_per_group=3)),
        {},
    ),
}
CASES = {**SWITCH, **TOP_K, **GATES, **OTHERS, **BALANCE, **GROUPS}

# Inputs on which every decision is clear and capacities bind.
SALTS = {
    "switch-max-1": "1",
    "retries-random": "1",
    "retries-k3-all-experts": "7",
    "bias-sigmoid-retries-priority": "2",
    "experts-choose-over-tokens-1": "1",
    "three-other-kinds": "1",
}

# Where differences are tried too: one of each way that a gradient can take.
GRADIENTS = {
    "switch-sample-2",
    "switch-max-1",
    "ntlb-2",
    "priority-k2",
    "retries-2",
    "retries-p-norm",
    "bias-2",
    "sigmoid-k2",
    "bias-of-sigmoid-gate-1",
    "jitter-and-dropout",
    "concat",
    "add",
    "embed-only",
    "concat-stop",
    "add-stop",
    "embed-only-stop",
    "words-innermost-of-three",
    "explore-k2",
    "explore-sampled",
    "uniform-k2-norm",
    "experts-choose-2",
    "experts-choose-over-tokens-2",
    "experts-choose-over-tokens-outer",
    "three-kinds",
    "balance-example-all",
    "balance-batch-all",
    "balance-example-sigmoid",
    "balance-group-all",
}


# Whose gradients do not reach the words, while those of their namesakes do.
STOPPED = {"concat-stop", "add-stop", "embed-only-stop"}

# What differs from another case in little.
SLOW = {
    "switch-no-sample-eval-2",
    "ntlb-more-than-experts-2",
    "ntlb-sample-2",
    "retries-1",
    "retries-random",
    "retries-no-norm",
    "retries-inner-only",
    "bias-1",
    "sigmoid-k3-no-norm",
    "jitter",
    "concat-1",
    "words-outer",
    "explore-sampled-1",
    "uniform-1",
    "uniform-k3",
    "experts-choose-eval",
    "experts-choose-no-outer-batch",
    "experts-choose-by-words",
    "balance-group-all-1",
    "balance-example-first-1",
    "balance-batch-first-1",
    "balance-batch-all-1",
    "balance-example-first",
    "balance-batch-first",
    "balance-example-no-outer-batch",
    "balance-example-k1",
    "no-exploring-in-eval",
}


assert set(SALTS) | GRADIENTS | SLOW <= set(CASES)
assert STOPPED | {name[: -len("-stop")] for name in STOPPED} <= GRADIENTS


def case_of(name, **more):
    levels, how = CASES[name]
    return oracle.Case(levels, salt=SALTS.get(name, ""), **dict(how, **more))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
)
def test_layer_equals_the_oracle(name):
    case = case_of(name, gradients=name in GRADIENTS)
    case.assert_hard_and_clear()
    case.assert_same_numbers()
    if name in GRADIENTS:
        case.assert_same_gradients()
    if name in STOPPED:
        assert not case.run.gradients.get("embeddings", np.zeros(1)).any()
    elif f"{name}-stop" in STOPPED:
        assert np.abs(case.run.gradients["embeddings"]).max() > 1e-3


def test_several_outputs_of_the_experts():
    experts = hmoe.FeedForwardExperts(hidden_size=11, use_bias=True, output_names=["q_wo", "k_wo"])
    case = oracle.Case(two(top(retries=1), choice("tokens"), both=ROOM), {"experts": experts})
    case.assert_hard_and_clear()
    assert case.run.outputs.shape[-1] == 26
    case.assert_same_numbers()
    case.assert_same_gradients()


@pytest.mark.parametrize("name", ["retries-2", "experts-choose-outer"])
def test_brief_metrics_are_the_same_but_fewer(name):
    levels, how = CASES[name]
    case = oracle.Case(levels, {"metrics": "brief"}, gradients=False, **how)
    case.assert_same_numbers()
    full = reference.final_names(case.layer, case.expected, case.importance_of_tokens())
    brief = reference.final_names(
        case.layer, case.expected, case.importance_of_tokens(), full=False
    )
    assert {"outer/entropy", "inner/load_0"} <= set(full) - set(brief)


def test_metrics_that_are_off_leave_the_losses():
    levels, how = CASES["retries-2"]
    case = oracle.Case(levels, {"metrics": "off"}, gradients=False, **how)
    assert set(case.run.sums) == {"outer/losses", "inner/losses"}
    np.testing.assert_array_equal(case.run.outputs, case_of("retries-2").run.outputs)


def test_nothing_is_dropped_where_room_is_for_all():
    levels, _ = CASES["retries-2"]
    moe = hmoe.HierarchicalMoE(levels=levels, experts=hmoe.FeedForwardExperts(hidden_size=11))
    x = seeded.tokens_of(oracle.DIMS)
    importance = seeded.importance_of(oracle.DIMS)
    run = run_layer(
        moe, x, oracle.DIMS, importance=importance, train=False, gradients=False, drop_tokens=False
    )
    layer = ask_oracle.reference_of(moe, run.weights, train=False, drop_tokens=False)
    expected = layer(
        ask_oracle.as_streams(x, True, depth=True),
        ask_oracle.as_streams(importance, True, depth=False),
    )
    assert not any(reference.dropped_choices(groups) for groups in expected.groups)
    np.testing.assert_allclose(
        run.outputs, expected.outputs.reshape(run.outputs.shape), rtol=2e-5, atol=2e-6
    )
