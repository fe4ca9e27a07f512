"""Models that start from the variables of another model's checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.t5 import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    tiny.make(folder).train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    return folder


def test_starts_from_another_model(trained: Path, tmp_path: Path) -> None:
    """A deeper model loads the variables that the two have in common."""
    lines: list = []
    path = f"{trained}/model.ckpt-1"
    estimator = tiny.make(
        tmp_path,
        lines=lines,
        init_checkpoint=path,
        learning_rate_schedule=0.0,
        bindings=["num_blocks = 2"],
    )
    estimator.train(tiny.input_fn(tiny.ids(8)), max_steps=2)
    before, after = tiny.weights(trained), tiny.weights(tmp_path)
    name = "encoder/block_000/layer_000/SelfAttention/q"
    assert (after[name] == before[name]).all()
    # One batch of data, counted from 0 and not from the other model's step.
    assert after["global_step"] == 1
    common = len(set(before) - {"global_step"})
    assert (
        f"{common} of {len(after)} variables are initialized from {path}; the others keep their own initial values"
        in lines
    )


def test_init_checkpoint_in_a_folder_with_an_odd_name(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "a[1]*")
    path = f"{tmp_path}/a[1]*/model.ckpt-1"
    rate = {"learning_rate_schedule": 0.0}
    estimator = tiny.make(tmp_path / "new", init_checkpoint=path, **rate)
    estimator.train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    name = "encoder/block_000/layer_000/SelfAttention/q"
    assert (tiny.weights(tmp_path / "new")[name] == tiny.weights(trained)[name]).all()

    (data,) = (tmp_path / "a[1]*").glob("*.data-00001-of-00002")
    data.write_bytes(bytes(len(data.read_bytes())))
    estimator = tiny.make(tmp_path / "newer", init_checkpoint=path, **rate)
    with pytest.raises(ValueError) as error:
        estimator.train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    said = str(error.value)
    assert said.startswith(f"checkpoint {path} is damaged: TensorBundle at ")
    assert said.endswith(". Restore its files (model.ckpt-1.*) from a copy")


def test_init_checkpoint_of_another_shape(trained: Path, tmp_path: Path) -> None:
    path = f"{trained}/model.ckpt-1"
    estimator = tiny.make(tmp_path, init_checkpoint=path, bindings=["d_ff_wide = 40"])
    with pytest.raises(ValueError) as error:
        estimator.train(tiny.input_fn(tiny.ids(8)), max_steps=2)
    text = str(error.value)
    assert text.startswith(
        f"utils.run.init_checkpoint = '{path}' does not match the model: 12 variables differ in "
        "shape.\n  decoder/block_000/layer_002/DenseReluDense/wi_0/kernel: [16, 24] in the "
        "checkpoint, [16, 40] in the model\n"
    )
    assert text.endswith(
        "  and 4 more\nChange the model, or leave these variables out with "
        "utils.run.init_variable_filter or should_load_variable.filter_fn"
    )


def test_init_checkpoint_with_nothing_in_common(trained: Path, tmp_path: Path) -> None:
    path = f"{trained}/model.ckpt-1"
    estimator = tiny.make(
        tmp_path,
        init_checkpoint=path,
        bindings=["tpu_estimator_model_fn.init_variable_filter = '^nowhere$'"],
    )
    with pytest.raises(ValueError) as error:
        estimator.train(tiny.input_fn(tiny.ids(8)), max_steps=2)
    assert str(error.value) == (
        f"utils.run.init_checkpoint = '{path}' has none of the model's "
        f"{len(tiny.weights(trained))} variables. It has, for example, "
        "decoder/block_000/layer_000/SelfAttention/k; the model has "
        "decoder/block_000/layer_000/SelfAttention/k. Map the names with "
        "init_checkpoint_variable_mapping.mapping_fn"
    )


def test_unreadable_init_checkpoint(tmp_path: Path) -> None:
    path = f"{tmp_path}/model.ckpt-7"
    estimator = tiny.make(tmp_path, init_checkpoint=path)
    with pytest.raises(ValueError) as error:
        estimator.train(tiny.input_fn(tiny.ids(8)), max_steps=2)
    assert str(error.value) == (
        f"no checkpoint can be read at '{path}'; give its path like model_dir/model.ckpt-1000 "
        "(without .index)"
    )
