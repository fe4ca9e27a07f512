"""Upstream's run with our trainer in its seams."""

from __future__ import annotations

import types

import gin
import pytest
from mesh_tensorflow.transformer import utils

import hmoe.t5  # noqa: F401  (before mesh_tensorflow)
from hmoe.compat.stack import tf
from hmoe.t5.commands import t5_run


@pytest.fixture(autouse=True)
def _clean():
    gin.clear_config()
    yield
    gin.clear_config()


def test_input_state_cannot_be_saved() -> None:
    gin.parse_config("utils.run.checkpoint_input_pipeline = True")
    with pytest.raises(ValueError) as error:
        t5_run.run("train", "nowhere", print)
    assert str(error.value) == (
        "utils.run.checkpoint_input_pipeline = True saves the state of the input, which needs a "
        "hook that left TensorFlow with its Estimator, and cannot be done for data from Python "
        "generators; use utils.run.skip_seen_data = True with a seed for the data "
        "(mesh_train_dataset_fn.seed)"
    )


def test_seams_are_put_back() -> None:
    module = types.SimpleNamespace(f=1, g=2)
    with t5_run.replaced(module, f=3):
        assert (module.f, module.g) == (3, 2)
    assert (module.f, module.g) == (1, 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_as_the_session_says_where_there_is_no_tpu(dtype: str) -> None:
    gin.bind_parameter("utils.get_variable_dtype.master_dtype", "float32")
    gin.bind_parameter("utils.get_variable_dtype.slice_dtype", "bfloat16")
    gin.bind_parameter("utils.get_variable_dtype.activation_dtype", "float16")
    t5_run._use_activations(dtype)
    found = utils.get_variable_dtype()
    assert (found.master_dtype, found.slice_dtype) == (tf.float32, tf.float32)
    assert found.activation_dtype == tf.as_dtype(dtype)


def test_bound_leaves_references_alone() -> None:
    gin.parse_config("utils.run.mesh_shape = @utils.tpu_mesh_shape()\nutils.run.mode = 'eval'")
    assert t5_run.bound("run.mode") == "eval"
    assert "tpu_mesh_shape" in str(t5_run.bound("run.mesh_shape"))
    assert t5_run.bound("run.train_steps", 3) == 3
