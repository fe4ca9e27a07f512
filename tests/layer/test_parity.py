"""The same numbers as upstream's layers, of every gating and option that they have.

Where a fault of upstream's would show, the case steps around it: its balance losses count
padding, so that cases with padding have no such loss. tests/layer/test_mended.py has the faults.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from mesh_tensorflow.transformer import moe as upstream_moe

import hmoe
from tests import reference, seeded, tolerances
from tests.run_layer import run_layer
from tests.upstream import (
    DIMS,
    MIXED,
    ONES,
    WHOLE,
    Upstream,
    level,
    one,
    oracle_of,
    ours,
    policies,
    top_k,
    two,
)

pytestmark = pytest.mark.usefixtures("mesh_engine")

EXPLORING = hmoe.Gate(explore_probability=1.0)
EXPLORED = {"moe_use_second_place_expert_prob": 1.0}


@dataclasses.dataclass
class Case:
    """Two layers that are to give the same numbers."""

    ours: Any
    theirs: Any
    importance: np.ndarray | None = None
    train: bool = True
    embeddings: bool = False


def switch(gate=None, **more):
    return hmoe.SwitchRouter(gate=gate, **more)


def selection(gate=None):
    return hmoe.ExpertChoiceRouter(softmax_over="tokens", gate=gate)


# Upstream's name: our router.
ROUTERS = {
    "top_2": top_k,
    "top_n": lambda gate=None: top_k(3, gate=gate),
    "switch": switch,
    "switch_max": lambda gate=None: switch(gate, priority=True),
    "ntlb": lambda gate=None: switch(gate, retries=2),
    "expert_selection": selection,
}
HAVE_SOUND_LOSSES = ("top_2", "top_n", "expert_selection")
SWITCHES = ("switch", "switch_max", "ntlb")
WORDS = "spoken words"  # whose choices are clear
UNBALANCED = ({"balance_loss_coef": 0.0}, {"moe_loss_coef": 0.0})


def router_cases():
    """Every gating: with padding, with losses, in evaluation, with word embeddings."""
    cases = {}
    for gating, router in ROUTERS.items():
        balance = ({}, {}) if gating in HAVE_SOUND_LOSSES else UNBALANCED
        cases[f"v1-{gating}-padding"] = Case(
            one(router(), **balance[0]), Upstream(5, gating, **balance[1]), WHOLE
        )
        # Theirs multiplies the z-loss by the balance coefficient too.
        balance = UNBALANCED if gating == "ntlb" else ({}, {})
        z = ({}, {}) if gating == "ntlb" else ({"z_loss_coef": 0.003}, {"moe_z_loss": 0.3})
        cases[f"v1-{gating}-z-loss"] = Case(
            one(router(), **balance[0], **z[0]), Upstream(5, gating, **balance[1], **z[1]), ONES
        )
        cases[f"v1-{gating}-eval"] = Case(
            one(router(), **balance[0]), Upstream(5, gating, **balance[1]), ONES, train=False
        )
        cases[f"v1-{gating}-words"] = Case(
            one(router(gate=hmoe.Gate(word_embeddings="concat")), **balance[0]),
            Upstream(5, gating, moe_word_embed_mode="concat", **balance[1]),
            ONES,
            embeddings=True,
        )
    return cases


def option_cases():
    """Options that gatings share, each once or where it is the most telling."""
    cases = {}
    for mode in ("concat_stop_grad", "add", "add_stop_grad", "embed_only"):
        cases[f"v1-words-{mode}"] = Case(
            one(top_k(gate=hmoe.Gate(word_embeddings=mode))),
            Upstream(5, moe_word_embed_mode=mode),
            WHOLE,
            embeddings=True,
        )
    for gating in SWITCHES:
        cases[f"v1-{gating}-second-place"] = Case(
            one(ROUTERS[gating](gate=EXPLORING), **UNBALANCED[0]),
            Upstream(5, gating, **EXPLORED, **UNBALANCED[1]),
            WHOLE,
        )
        cases[f"v1-{gating}-no-second-place-in-eval"] = Case(
            one(ROUTERS[gating](gate=EXPLORING), **UNBALANCED[0]),
            Upstream(5, gating, **EXPLORED, **UNBALANCED[1]),
            ONES,
            train=False,
        )
    cases["v1-switch-second-place-losses"] = Case(
        one(switch(EXPLORING)), Upstream(5, "switch", **EXPLORED), ONES
    )
    for policy in ("input_jitter", "input_dropout"):
        cases[f"v1-switch-{policy}-of-0"] = Case(
            one(switch()), Upstream(5, "switch", moe_switch_policy_train=policy), ONES
        )
    cases["v1-two-outputs"] = Case(
        ours(level("only", 5, top_k()), output_names=("q_wo", "k_wo")),
        Upstream(5, moe_use_experts_attention=True),
        WHOLE,
    )
    return cases


def policy_cases():
    """Policies of later choices, partial tokens, the second-place loss, two levels."""
    cases = {
        "v1-all-partial": Case(one(top_k()), Upstream(5), MIXED),
        "v1-second-place-loss": Case(
            one(top_k(), second_place_loss=True), Upstream(5, moe_use_second_place_loss=True), ONES
        ),
        "v1-top-3-threshold": Case(
            one(top_k(3, "threshold")), Upstream(5, "top_n", **policies("threshold")), WHOLE
        ),
        "v2-all": Case(two(), Upstream([3, 5]), WHOLE),
        "v2-eval": Case(two(), Upstream([3, 5]), None, train=False),
    }
    for policy in ("none", "threshold"):
        router, theirs = top_k(policy=policy), policies(policy)
        cases[f"v1-{policy}"] = Case(one(router), Upstream(5, **theirs), WHOLE)
        cases[f"v2-{policy}"] = Case(two(router), Upstream([3, 5], **theirs), WHOLE)
    return cases


CASES = {**policy_cases(), **router_cases(), **option_cases()}


def assert_same(case, x, words=None):
    """Runs both; the oracle says that the case is hard and its choices are clear."""
    mine, other = (
        run_layer(
            each,
            x,
            DIMS,
            importance=case.importance,
            train=case.train,
            gradients=case.train,
            **({} if words is None else {"embeddings": words}),
        )
        for each in (case.ours, case.theirs)
    )
    layer, expected = oracle_of(case.ours, mine.weights, x, case.importance, case.train, words)
    reference.assert_not_easy(
        expected,
        layer.specs,
        partial=case.importance is MIXED,
        padding=case.importance is MIXED or case.importance is WHOLE,
    )
    assert reference.smallest_margin(expected) > tolerances.ORACLE_MARGIN

    assert sorted(mine.weights) == sorted(other.weights)
    tolerances.assert_close(mine.outputs, other.outputs, tolerances.SAME)
    tolerances.assert_close(mine.loss, other.loss, tolerances.SAME)
    assert sorted(mine.gradients) == sorted(other.gradients)
    for variable, gradient in other.gradients.items():
        tolerances.assert_close(mine.gradients[variable], gradient, tolerances.SAME, variable)
        assert np.abs(gradient).max() > 1e-3
    return mine


@pytest.mark.parametrize("name", CASES)
def test_outputs_losses_and_gradients_are_those_of_upstream(name):
    case = CASES[name]
    words = seeded.tokens_of(DIMS, WORDS) if case.embeddings else None
    mine = assert_same(case, seeded.tokens_of(DIMS), words)
    if case.train:
        assert ("embeddings" in mine.gradients) == (case.embeddings and "stop_grad" not in name)


def likely_tokens(probability):
    """Inputs whose best expert at the first level has a probability above this one."""
    kernel = seeded.weights_of("outer_gating/kernel", [7, 3])
    drawn = seeded.generator("likely tokens").randn(500, 7).astype(np.float32)
    logits = drawn @ kernel
    best = 1 / np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1)
    number = np.prod([size for _, size in DIMS[:-1]])
    return drawn[best > probability][:number].reshape([size for _, size in DIMS])


# (outer, inner) gatings. What a retry places has a small weight, and a later choice one below
# one half, so neither stands at the outer level here.
PAIRS = [
    ("top_n", "top_n"),
    ("switch", "switch"),
    ("switch_max", "switch_max"),
    ("switch", "ntlb"),
    ("switch", "top_2"),
    ("switch_max", "expert_selection"),
    ("expert_selection", "expert_selection"),
]


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_two_levels_of_the_other_gatings(outer, inner, monkeypatch):
    """Upstream's layer of two levels refuses all but top_2: its functions stand in for that.

    What arrives with a weight of one half or less is no first choice to that layer, and most
    gatings have no sound rule for such tokens, so all inputs have a likely expert.
    """
    functions = {name: getattr(upstream_moe, f"_{name}_gating") for name in ROUTERS}

    def stand_in(inputs, name, **more):
        gating = {"outer_gating": outer, "inner_gating": inner}[name]
        if gating == "expert_selection":
            more["group_size_dim"] = inputs.shape.dims[-2]
        return functions[gating](inputs=inputs, name=name, **more)

    monkeypatch.setattr(upstream_moe, "_top_2_gating", stand_in)
    policy = "none" if outer == "top_n" else "all"
    routers = [top_k(3, policy) if name == "top_n" else ROUTERS[name]() for name in (outer, inner)]
    assert_same(
        Case(
            ours(
                level("outer", 3, routers[0], **UNBALANCED[0]),
                level("inner", 5, routers[1], **UNBALANCED[0]),
            ),
            Upstream([3, 5], **policies(policy), **UNBALANCED[1]),
            WHOLE,
        ),
        likely_tokens(0.65),
    )
