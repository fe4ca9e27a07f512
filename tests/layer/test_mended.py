"""Each fault of upstream's that is mended: its number and ours, by hand or from the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from mesh_tensorflow.transformer import moe as upstream_moe

import hmoe
from hmoe.layer import groups
from tests import ask_oracle, reference, seeded, tolerances
from tests.layer.test_parity import ROUTERS, UNBALANCED
from tests.run_layer import run_layer, run_layer_each
from tests.upstream import DIMS, MIXED, ONES, WHOLE, Upstream, one, policies, three_ways, top_k, two

PARTIAL = (MIXED > 0) & (MIXED < 1)


def assert_same_outputs(mine, theirs):
    tolerances.assert_close(mine.outputs, theirs.outputs, tolerances.SAME)


def exponentials_of(run):
    """[groups, tokens, experts]: of the logits of a one-level layer, in float64."""
    (kernel,) = (value for name, value in run.weights.items() if "gating" in name)
    return np.exp(seeded.tokens_of(DIMS).astype(np.float64).reshape([6, 12, 7]) @ kernel)


# --- The balance losses of switch, switch_max and ntlb ---------------------------------------


def switch_losses(run, importance, tries):
    """(upstream's, ours), before the coefficient.

    Upstream's averages choices and probabilities over all places, padding included, multiplies
    them, and scales with the share of full tokens; ntlb's averages over all tries as well. Ours
    counts the first choices and the probabilities of full tokens.
    """
    probabilities = exponentials_of(run)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    full = (importance.reshape([6, 12]) == 1.0).astype(np.float64)
    order = np.argsort(-probabilities, axis=-1)
    theirs = np.mean(
        [
            (np.eye(5)[order[..., number]].mean(axis=1) * probabilities.mean(axis=1)).mean(axis=-1)
            * full.mean(axis=1)
            for number in range(tries)
        ]
    )
    chosen = (np.eye(5)[order[..., 0]] * full[..., None]).mean(axis=1)
    ours = (chosen * (probabilities * full[..., None]).mean(axis=1)).mean()
    return 25 * theirs, 25 * ours


@pytest.mark.parametrize(
    ("gating", "importance", "tries"),
    [("switch", WHOLE, 1), ("switch_max", WHOLE, 1), ("ntlb", WHOLE, 3), ("ntlb", ONES, 3)],
    ids=["switch-padding", "switch_max-padding", "ntlb-padding", "ntlb-all-tries"],
)
def test_mended_balance_loss_counts_padding_and_all_tries(gating, importance, tries):
    mine, theirs, _ = three_ways(one(ROUTERS[gating]()), Upstream(5, gating), importance)
    assert_same_outputs(mine, theirs)
    expected = switch_losses(mine, importance, tries)
    assert theirs.loss == pytest.approx(0.01 * expected[0], rel=1e-5)
    assert mine.loss == pytest.approx(0.01 * expected[1], rel=1e-5)
    assert abs(expected[0] - expected[1]) > 0.02


def test_what_stands_in_padding_changes_upstreams_balance_loss_and_not_ours():
    x = seeded.tokens_of(DIMS)
    other = np.where((WHOLE == 0)[..., None], -3.0 * x, x)
    for layer, same in ((one(ROUTERS["switch"]()), True), (Upstream(5, "switch"), False)):
        losses = [
            run.loss
            for run in run_layer_each(layer, [x, other], DIMS, importance=WHOLE, gradients=False)
        ]
        assert (losses[0] == pytest.approx(losses[1], rel=1e-6)) == same


# --- Partial tokens ---------------------------------------------------------------------------


@pytest.mark.parametrize("gating", ["switch", "switch_max", "ntlb"])
def test_mended_partial_tokens_get_no_expert_in_switch(gating):
    room = {"capacity_factor_train": 3.0, **UNBALANCED[0]}
    mine, theirs, expected = three_ways(
        one(ROUTERS[gating](), **room),
        Upstream(5, gating, moe_capacity_factor_train=3.0, **UNBALANCED[1]),
        MIXED,
    )
    assert np.abs(theirs.outputs[PARTIAL]).max() == 0.0
    reached = expected.reached[..., 0].reshape(MIXED.shape) > 0
    assert reached[PARTIAL].any()
    assert (np.abs(mine.outputs).max(axis=-1) > 0)[PARTIAL].tolist() == reached[PARTIAL].tolist()


def test_mended_partial_tokens_get_three_experts_in_top_n():
    mine, theirs, _ = three_ways(one(top_k(3)), Upstream(5, "top_n"), MIXED)
    assert np.abs(mine.outputs - theirs.outputs).max() > 0.1


def test_mended_partial_tokens_get_no_expert_under_policy_none():
    mine, theirs, expected = three_ways(
        one(top_k(policy="none"), capacity_factor_train=3.0),
        Upstream(5, moe_capacity_factor_train=3.0, **policies("none")),
        MIXED,
    )
    assert np.abs(theirs.outputs[PARTIAL]).max() == 0.0
    reached = expected.reached[..., 0].reshape(MIXED.shape) > 0
    assert (np.abs(mine.outputs).max(axis=-1) > 0)[PARTIAL].tolist() == reached[PARTIAL].tolist()
    assert reached[PARTIAL].any()


def test_mended_partial_token_counts_half_in_the_loss_of_expert_selection():
    mine, theirs, _ = three_ways(
        one(ROUTERS["expert_selection"]()), Upstream(5, "expert_selection"), MIXED
    )
    assert_same_outputs(mine, theirs)
    importance = MIXED.reshape([6, 12]).astype(np.float64)
    values = exponentials_of(mine) * (importance > 0)[..., None]
    attention = (values / values.sum(axis=1, keepdims=True)).mean(axis=-1) * (importance == 1)
    squares = (attention**2).sum(axis=1)
    expected = [
        (squares * number).mean()
        for number in (importance.sum(axis=1), (importance == 1).sum(axis=1))
    ]
    assert theirs.loss == pytest.approx(0.01 * expected[0], rel=1e-5)
    assert mine.loss == pytest.approx(0.01 * expected[1], rel=1e-5)
    assert expected[0] > expected[1] + 0.02


def test_mended_partial_token_becomes_full_at_the_second_level():
    mine, theirs, _ = three_ways(two(), Upstream([3, 5]), MIXED)
    assert np.abs(mine.outputs - theirs.outputs).max() > 0.1


# --- Padding ----------------------------------------------------------------------------------


def test_mended_a_group_of_padding_reaches_experts_in_expert_selection():
    """A large negative logit swallows all others, and the logarithm of their number with it.

    So every affinity is 1, and the first places of the group take all slots of all experts.
    """
    importance = WHOLE.copy()
    importance[1, 2] = 0.0
    mine, theirs, _ = three_ways(
        one(ROUTERS["expert_selection"]()), Upstream(5, "expert_selection"), importance
    )
    wi, wo = (mine.weights[f"{name}/kernel"] for name in ("wi", "wo"))
    hidden = np.maximum(np.einsum("tm,xmf->txf", seeded.tokens_of(DIMS)[1, 2, :2], wi), 0)
    expected = np.einsum("txf,xfn->tn", hidden, wo) / 5
    tolerances.assert_close(theirs.outputs[1, 2, :2], expected, tolerances.SAME)
    assert np.abs(expected).max() > 0.01
    assert np.abs(theirs.outputs[1, 2, 2:]).max() == 0.0
    assert np.abs(mine.outputs[1, 2]).max() == 0.0


def test_mended_padding_in_the_second_place_loss():
    mine, theirs, _ = three_ways(
        one(top_k(), second_place_loss=True), Upstream(5, moe_use_second_place_loss=True), WHOLE
    )
    assert_same_outputs(mine, theirs)
    assert theirs.loss > mine.loss + 2e-4


# --- Other losses -----------------------------------------------------------------------------


def test_mended_second_place_loss_of_top_n_is_off_by_one():
    mine, theirs, _ = three_ways(
        one(top_k(3), second_place_loss=True),
        Upstream(5, "top_n", moe_use_second_place_loss=True),
        ONES,
    )
    assert_same_outputs(mine, theirs)
    assert abs(theirs.loss - mine.loss) > 2e-4


@pytest.mark.parametrize("gating", ["top_2", "expert_selection"])
def test_mended_z_loss_is_multiplied_by_the_balance_coefficient(gating):
    mine, theirs, expected = three_ways(
        one(ROUTERS[gating](), z_loss_coef=0.1), Upstream(5, gating, moe_z_loss=0.1), WHOLE
    )
    balance, z = expected.raw_losses["only/balance"], expected.raw_losses["only/z"]
    assert theirs.loss == pytest.approx(0.01 * (balance + 0.1 * z), rel=1e-5)
    assert mine.loss == pytest.approx(0.01 * balance + 0.1 * z, rel=1e-5)


# --- Choices, places and groups ---------------------------------------------------------------


def test_mended_first_choice_read_back_from_a_weight_above_one_half():
    def ties(name, shape):
        weights = seeded.weights_of(name, shape)
        return np.zeros_like(weights) if name.startswith("outer") else weights

    mine, theirs, expected = three_ways(two(), Upstream([3, 5]), WHOLE, values=ties)
    assert np.abs(mine.outputs - theirs.outputs).max() > 0.1
    # All first choices of a tie go to the expert of lower number, and are full further in.
    full = [g for g in expected.groups[1] if g.full()]
    assert {g.family for g in full} == {(0,)}


def test_mended_capacity_above_the_group():
    moe = one(top_k(), group_size=3, min_capacity=4)
    theirs = Upstream(5, moe_group_size=3, moe_min_expert_capacity=4)
    x = seeded.tokens_of(DIMS)
    sizes = []
    for layer in (moe, theirs):
        graph = run_layer(layer, x, DIMS, importance=WHOLE, gradients=False).graph
        sizes.append(
            {
                dim.size
                for op in graph.operations
                for tensor in op.outputs
                for dim in tensor.shape.dims
                if dim.name == "expert_capacity"
            }
        )
    assert sizes == [{3}, {4}]


@pytest.mark.parametrize("gating", ["switch_max", "expert_selection"])
def test_mended_capacity_above_the_group_fills_slots_with_garbage(gating):
    """Of two to four tokens taken one by one, those there are not have a weight of -1e9."""
    x = seeded.tokens_of(DIMS)
    theirs = run_layer(
        Upstream(5, gating, moe_group_size=3, moe_min_expert_capacity=4),
        x,
        DIMS,
        importance=WHOLE,
        gradients=False,
    )
    assert np.abs(theirs.outputs).max() > 1e7
    with pytest.raises(ValueError, match="^k_dim.size must be <= reduced_dim.size: "):
        run_layer(
            Upstream(5, gating, moe_group_size=3, moe_min_expert_capacity=5),
            x,
            DIMS,
            importance=WHOLE,
            gradients=False,
        )
    mine = run_layer(
        one(ROUTERS[gating](), group_size=3, min_capacity=4),
        x,
        DIMS,
        importance=WHOLE,
        gradients=False,
    )
    assert (np.abs(mine.outputs).max(axis=-1) > 0).tolist() == (WHOLE > 0).tolist()
    assert np.abs(mine.outputs).max() < 30


@pytest.mark.parametrize(
    ("tokens", "requested", "splits"),
    [(2560, 1024, 1), (1280, 1024, 1), (1000, 300, 1), (96, 20, 4), (30, 7, 2), (12, 12, 3)],
)
def test_mended_group_size_is_never_above_the_one_asked_for(tokens, requested, splits):
    best = max(
        size
        for size in range(1, requested + 1)
        if tokens % size == 0 and (tokens // size) % splits == 0
    )
    assert groups.largest_group_size(tokens, requested, splits) == best
    _, theirs = upstream_moe._split_into_groups(tokens, requested, splits)
    assert theirs >= best
    if tokens == 1280:
        assert theirs == 1280


# --- What upstream cannot build ---------------------------------------------------------------

UNTOLD = {
    "two levels": (two(), Upstream([3, 5]), True),
    "switch": (one(ROUTERS["switch"]()), Upstream(5, "switch"), True),
    "switch_max": (one(ROUTERS["switch_max"]()), Upstream(5, "switch_max"), True),
    "expert_selection": (
        one(ROUTERS["expert_selection"]()),
        Upstream(5, "expert_selection"),
        False,
    ),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_mended_no_importance_is_an_error(name):
    moe, theirs, train = UNTOLD[name]
    x = seeded.tokens_of(DIMS)
    with pytest.raises(Exception, match="dtype|NoneType"):
        run_layer(theirs, x, DIMS, gradients=False, train=train)
    without = run_layer(moe, x, DIMS, gradients=False, train=train)
    full = run_layer(moe, x, DIMS, importance=ONES, gradients=False, train=train)
    tolerances.assert_close(without.outputs, full.outputs, tolerances.SAME)
    tolerances.assert_close(without.loss, full.loss, tolerances.SAME)


def test_mended_z_loss_without_microbatches_is_an_error(monkeypatch):
    """T5 gives no number of microbatches where there is one."""
    function = upstream_moe._router_z_loss

    def without(logits, experts_dim, num_microbatches, importance=None):
        return function(logits, experts_dim, None, importance)

    monkeypatch.setattr(upstream_moe, "_router_z_loss", without)
    with pytest.raises(Exception, match="NoneType|None"):
        run_layer(
            Upstream(5, moe_z_loss=0.1),
            seeded.tokens_of(DIMS),
            DIMS,
            importance=WHOLE,
            gradients=False,
        )


def test_mended_no_embed_only_with_a_stopped_gradient():
    x, words = seeded.tokens_of(DIMS), seeded.tokens_of(DIMS, "words")
    mode = "embed_only_stop_grad"
    with pytest.raises(ValueError, match=f"^Unimplemented moe word embed mode: {mode}$"):
        run_layer(
            Upstream(5, moe_word_embed_mode=mode), x, DIMS, importance=WHOLE, embeddings=words
        )
    runs = [
        run_layer(
            one(top_k(gate=hmoe.Gate(word_embeddings=each))),
            x,
            DIMS,
            importance=WHOLE,
            embeddings=words,
        )
        for each in (mode, "embed_only")
    ]
    assert_same_outputs(*runs)
    assert ["embeddings" in run.gradients for run in runs] == [False, True]


def test_oracle_of_this_file_is_hard():
    """What is compared above overflows, and its choices are clear."""
    mine, _, expected = three_ways(one(top_k()), Upstream(5), MIXED)
    specs = ask_oracle.reference_of(one(top_k()), mine.weights).specs
    reference.assert_not_easy(expected, specs, partial=True, padding=True)
    assert reference.smallest_margin(expected) > tolerances.ORACLE_MARGIN
