"""Checkpoints with experts as one variable and as one each, by hand-made names and shapes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hmoe.experts import split_merge

X, Y, Z, M, F, N = 4, 2, 3, 7, 5, 6
LAYER = "encoder/block_000/layer_001/MoELayer/"


def variables(*shapes):
    """Different numbers in every variable."""
    made = {}
    for name, shape in shapes:
        size = int(np.prod(shape))
        made[name] = np.arange(size, dtype=np.float32).reshape(shape) + 1000.0 * len(made)
    return made


DENSE = variables(
    ("decoder/block_000/layer_002/DenseReluDense/wi/kernel", [M, F]),
    ("decoder/block_000/layer_002/DenseReluDense/wo/kernel", [F, M]),
    ("ensemble/wi/kernel", [3, M, F]),
    ("global_step", []),
    ("encoder/rms_norm/scale", [M]),
)
OTHERS = [
    (f"{LAYER}shared/wi/kernel", [M, F]),
    (f"{LAYER}outer_gating/bias", [X]),
    (f"{LAYER}q", [M, N]),
]
TWO = [
    (f"{LAYER}outer_gating/kernel", [M, X]),
    (f"{LAYER}inner_gating/kernel", [X, M, Y]),
    (f"{LAYER}inner_gating/balance_bias", [X, Y]),
    *OTHERS,
]
MODELS = {
    "one level": [
        (f"{LAYER}top_2_gating/kernel", [M, X]),
        *OTHERS,
        (f"{LAYER}wi/kernel", [X, M, F]),
        (f"{LAYER}wo/kernel", [X, F, N]),
    ],
    "two levels, gated, biases, two outputs": [
        *TWO,
        (f"{LAYER}wi_0/kernel", [Y, X, M, F]),
        (f"{LAYER}wi_1/kernel", [Y, X, M, F]),
        (f"{LAYER}wi_0/bias", [Y, X, F]),
        (f"{LAYER}wi_1/bias", [Y, X, F]),
        (f"{LAYER}q_wo/kernel", [Y, X, F, N]),
        (f"{LAYER}k_wo/kernel", [Y, X, F, N]),
        (f"{LAYER}q_wo/bias", [Y, X, N]),
    ],
    "three levels at the root": [
        ("outer_gating/kernel", [2 * M, X]),
        ("inner_gating/kernel", [X, M, Y]),
        ("level_2_gating/kernel", [Y, X, M, Z]),
        ("wi/kernel", [Z, Y, X, M, F]),
        ("wo/kernel", [Z, Y, X, F, N]),
    ],
}


@pytest.mark.parametrize("shapes", MODELS.values(), ids=MODELS)
def test_back_to_the_bit(shapes):
    before = {**variables(*shapes), **DENSE}
    split = split_merge.split_experts(before)
    assert max(value.ndim for name, value in split.items() if "expert_" in name) == 2
    after = split_merge.merge_experts(split)
    assert set(after) == set(before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
        assert after[name].dtype == value.dtype
    untouched = set(before) & set(split)
    assert untouched == {
        name
        for name, _ in shapes
        if not name.startswith((f"{LAYER}w", f"{LAYER}q_", f"{LAYER}k_", "wi", "wo"))
    } | set(DENSE)


def test_each_expert_is_found_by_its_numbers():
    before = variables(*MODELS["two levels, gated, biases, two outputs"])
    split = split_merge.split_experts(before)
    for x in range(X):
        for y in range(Y):
            for name in ("wi_1/kernel", "wi_0/bias", "q_wo/bias"):
                np.testing.assert_array_equal(
                    split[f"{LAYER}expert_{x}_{y}/{name}"], before[LAYER + name][y, x]
                )
    assert f"{LAYER}expert_0_{Y}/wi_0/kernel" not in split


def test_optimizers_variables_are_left_out():
    before = variables(*MODELS["one level"])
    slots = {
        f"{LAYER}wi/kernel_slot_vr": np.ones([X, M]),
        f"{LAYER}wo/kernel_slot_v": np.ones(3),
        f"{LAYER}wo/kernel/adam_m": np.ones([X, F, N]),
    }
    split = split_merge.split_experts({**before, **slots})
    assert set(split) == set(split_merge.split_experts(before))
    assert set(split_merge.merge_experts({**split, **slots})) == set(before)


def test_needs_no_tensorflow():
    code = (
        "import sys; from hmoe.experts import split_merge; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def split_of(name="two levels, gated, biases, two outputs"):
    return split_merge.split_experts(variables(*MODELS[name]))


def without(names, *gone):
    return {name: value for name, value in names.items() if name not in gone}


EXPERT = f"{LAYER}expert_2_1/wi_0/kernel"
LAST = f"{LAYER}expert_3_1/wi_0/kernel"
ERRORS = [
    (
        "already split",
        split_merge.split_experts,
        split_of,
        "no variable holds several experts: there is no layer with wi/kernel (or wi_0/kernel) of three"
        " dimensions or more beside its gating weights. Name the checkpoint of a model with"
        " hmoe.MoELayer that is not split already",
    ),
    (
        "other gating",
        split_merge.split_experts,
        lambda: {**variables(*MODELS["one level"]), f"{LAYER}top_2_gating/kernel": np.ones([M, 9])},
        f"{LAYER}wi/kernel is [4, 7, 5], but the layer's gating weights are for [9] experts (innermost"
        " level first); the checkpoint is damaged, or of another kind of layer",
    ),
    (
        "not split",
        split_merge.merge_experts,
        lambda: variables(*MODELS["one level"]),
        "no variable is of a single expert, as in expert_0_0/wi/kernel. Name a checkpoint that hmoe"
        " split wrote, or one trained with hmoe.FeedForwardExperts.separate = True",
    ),
    (
        "one missing",
        split_merge.merge_experts,
        lambda: without(split_of(), EXPERT),
        f"{EXPERT} is missing, of 8 experts; use the whole checkpoint",
    ),
    (
        "the last missing",
        split_merge.merge_experts,
        lambda: without(split_of(), LAST),
        f"{LAST} is missing, of 8 experts; use the whole checkpoint",
    ),
    (
        "another shape",
        split_merge.merge_experts,
        lambda: {**split_of(), EXPERT: np.ones([M, 9], np.float32)},
        f"{EXPERT} is float32 [7, 9], but {LAYER}expert_0_0/wi_0/kernel is float32 [7, 5]; experts of"
        " one layer have one shape and type",
    ),
    (
        "another type",
        split_merge.merge_experts,
        lambda: {**split_of(), EXPERT: np.ones([M, F], np.float16)},
        f"{EXPERT} is float16 [7, 5], but {LAYER}expert_0_0/wi_0/kernel is float32 [7, 5]; experts of"
        " one layer have one shape and type",
    ),
    (
        "one too many",
        split_merge.merge_experts,
        lambda: {**split_of(), f"{LAYER}expert_4_0/wi_0/kernel": np.ones([M, F], np.float32)},
        f"{LAYER}expert_4_0/wi_0/kernel is one expert too many: the layer's gating weights are for 4"
        " experts at level 0; keep those of one model only",
    ),
    (
        "two kinds",
        split_merge.merge_experts,
        lambda: {**split_of(), f"{LAYER}expert_4/wi_0/kernel": np.ones([M, F], np.float32)},
        f"{LAYER}wi_0/kernel: experts are numbered on 1 and 2 levels, as in"
        f" {LAYER}expert_0_0/wi_0/kernel and {LAYER}expert_4/wi_0/kernel; keep those of one model"
        " only",
    ),
]


@pytest.mark.parametrize(
    ("function", "make", "text"), [case[1:] for case in ERRORS], ids=[case[0] for case in ERRORS]
)
def test_errors(function, make, text):
    with pytest.raises(ValueError) as error:
        function(make())
    assert str(error.value) == text
