"""Models whose experts have variables of their own: the same answers, and back to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hmoe.experts import split_merge
from hmoe.t5.sessions import checkpoints
from tests import tolerances
from tests.t5 import tiny

SEPARATE = "hmoe.FeedForwardExperts.separate = True"
MODEL = "hierarchical_tiny"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two levels after two steps."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.make(folder, MODEL).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    return folder


@pytest.fixture(scope="module")
def split(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split") / "new"
    path = checkpoints.require_latest(str(trained))
    after = split_merge.split_experts(checkpoints.read(path))
    assert checkpoints.write(str(folder), checkpoints.step_of(path), after) == str(
        folder / "model.ckpt-2"
    )
    return folder


def test_answers_and_numbers_are_the_same(trained: Path, split: Path) -> None:
    data = tiny.ids(8, seed=3)
    numbers = [
        each.evaluate(tiny.input_fn(data))
        for each in (tiny.make(trained, MODEL), tiny.make(split, MODEL, bindings=[SEPARATE]))
    ]
    assert numbers[0].keys() == numbers[1].keys()
    for name, value in numbers[0].items():
        tolerances.assert_close(numbers[1][name], value, tolerances.SAME, name)
    joined = tiny.make(trained, MODEL)
    answers = [row["outputs"] for row in joined.predict(tiny.input_fn(data))]
    separate = tiny.make(split, MODEL, bindings=[SEPARATE])
    others = [row["outputs"] for row in separate.predict(tiny.input_fn(data))]
    assert np.any(answers)
    np.testing.assert_array_equal(others, answers)


def test_back_to_the_bit(trained: Path, split: Path, tmp_path: Path) -> None:
    before = checkpoints.read(checkpoints.require_latest(str(trained)))
    apart = checkpoints.read(checkpoints.require_latest(str(split)))
    assert not any("slot" in name for name in apart)
    expert = "decoder/block_000/layer_002/MoELayer/expert_1_0/"
    assert {name for name in apart if name.startswith(expert)} == {
        f"{expert}{name}/kernel" for name in ("wi_0", "wi_1", "wo")
    }
    merged = split_merge.merge_experts(apart)
    checkpoints.write(str(tmp_path / "merged"), 2, merged)
    after = tiny.weights(tmp_path / "merged")
    assert set(after) == {name for name in before if "slot" not in name}
    for name, value in after.items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
        assert value.dtype == before[name].dtype


@pytest.mark.slow
def test_separate_experts_train_on_a_mesh_as_joined_ones(
    trained: Path, split: Path, tmp_path: Path
) -> None:
    """The same loss from the same weights, and a checkpoint of single experts."""
    losses = []
    for begin, bindings in ((trained, []), (split, [SEPARATE])):
        folder = tmp_path / begin.name
        tiny.make(
            folder,
            MODEL,
            "cpu_2x2",
            bindings=bindings,
            init_checkpoint=f"{begin}/model.ckpt-2",
            learning_rate_schedule=0.0,
        ).train(tiny.input_fn(tiny.ids(16, seed=5)), max_steps=2)
        losses.append([line["loss"] for line in tiny.curves(folder)])
    tolerances.assert_close(losses[1], losses[0], tolerances.MESHES)
    before, after = tiny.weights(split), tiny.weights(tmp_path / split.name)
    for name, value in before.items():
        if name != "global_step":
            np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_a_checkpoint_of_the_other_form_is_named(trained: Path) -> None:
    estimator = tiny.make(trained, MODEL, bindings=[SEPARATE])
    with pytest.raises(ValueError) as error:
        estimator.evaluate(tiny.input_fn(tiny.ids(8)))
    assert "/MoELayer/expert_0_0/wi_0/kernel: only in the model" in str(error.value)
