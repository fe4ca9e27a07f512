"""Checkpoints that do not match the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.t5.sessions import architecture_check
from tests.t5 import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    tiny.make(folder).train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    return folder


def test_another_width_is_named(trained: Path) -> None:
    """d_ff of 40 for 24: wi and wo of both stacks."""
    estimator = tiny.make(trained, bindings=["d_ff_wide = 40"])
    with pytest.raises(ValueError) as error:
        list(estimator.predict(tiny.input_fn(tiny.ids(8))))
    scope = "layer_001/DenseReluDense", "layer_002/DenseReluDense"
    assert str(error.value) == (
        f"checkpoint {trained}/model.ckpt-1 does not match the model: 6 variables differ.\n"
        f"  decoder/block_000/{scope[1]}/wi_0/kernel: [16, 24] in the checkpoint, [16, 40] in the "
        "model\n"
        f"  decoder/block_000/{scope[1]}/wi_1/kernel: [16, 24] in the checkpoint, [16, 40] in the "
        "model\n"
        f"  decoder/block_000/{scope[1]}/wo/kernel: [24, 16] in the checkpoint, [40, 16] in the "
        "model\n"
        f"  encoder/block_000/{scope[0]}/wi_0/kernel: [16, 24] in the checkpoint, [16, 40] in the "
        "model\n"
        f"  encoder/block_000/{scope[0]}/wi_1/kernel: [16, 24] in the checkpoint, [16, 40] in the "
        "model\n"
        f"  encoder/block_000/{scope[0]}/wo/kernel: [24, 16] in the checkpoint, [40, 16] in the "
        "model\n"
        "Use the gin files that it was trained with, or another --model_dir; to start a new model from "
        "some of its variables, set utils.run.init_checkpoint"
    )


def test_another_depth_is_named_when_training_resumes(trained: Path) -> None:
    estimator = tiny.make(trained, bindings=["num_blocks = 2"])
    with pytest.raises(ValueError) as error:
        estimator.train(tiny.input_fn(tiny.ids(8)), max_steps=2)
    text = str(error.value)
    assert "  decoder/block_001/layer_000/SelfAttention/k: only in the model\n" in text
    assert text.count("only in the model") == architecture_check.MAX_LISTED
    # The 23 weights of the second block, and the optimizer's variable for each.
    assert "  and 38 more\n" in text


def test_fewer_layers_than_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    tiny.make(tmp_path, bindings=["num_blocks = 2"]).train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    with pytest.raises(ValueError) as error:
        tiny.make(tmp_path).evaluate(tiny.input_fn(tiny.ids(8)))
    text = "  decoder/block_001/layer_000/SelfAttention/k: only in the checkpoint\n"
    assert text in str(error.value)
