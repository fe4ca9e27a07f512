"""What gin says reaches the model function; data and batches that do not suit it do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs import batch_features
from hmoe.t5.sessions import session_settings
from tests import meshes
from tests.t5 import tiny


def test_gin_arguments_of_upstream_reach_the_settings(tmp_path: Path) -> None:
    bindings = [
        "tpu_estimator_model_fn.outer_batch_size = 4",
        "tpu_estimator_model_fn.tpu_summaries = True",
        "tpu_estimator_model_fn.model_info_file = 'info.txt'",
    ]
    settings = tiny.make(tmp_path, bindings=bindings).settings
    assert settings.outer_batch_size == 4
    assert settings.tpu_summaries is True
    assert settings.model_info_file == "info.txt"
    assert settings.batch_size == tiny.BATCH
    assert settings.mesh_devices == [""]


def test_batch_that_the_outer_batch_does_not_divide(tmp_path: Path) -> None:
    bindings = ["tpu_estimator_model_fn.outer_batch_size = 3"]
    with pytest.raises(ValueError) as error:
        tiny.make(tmp_path, bindings=bindings).train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    assert str(error.value) == (
        "utils.run.batch_size: 8 examples cannot be divided into "
        "tpu_estimator_model_fn.outer_batch_size = 3 equal parts; use a batch size that is a "
        "multiple of 3"
    )


def test_data_without_inputs(tmp_path: Path) -> None:
    data = {"targets": tiny.ids(8)["targets"]}
    with pytest.raises(ValueError) as error:
        tiny.make(tmp_path).train(tiny.input_fn(data), max_steps=1)
    assert str(error.value) == (
        "the data lacks inputs: model_type 'bitransformer' in mode 'train' was given targets. "
        "'lm' is for tasks with targets only, 'delimited_lm' and 'bitransformer' for tasks with "
        "inputs and targets (utils.run.model_type)"
    )


def test_filter_that_leaves_nothing_to_train(tmp_path: Path) -> None:
    estimator = tiny.make(tmp_path, variable_filter="^nothing$")
    with pytest.raises(ValueError) as error:
        estimator.train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    text = str(error.value)
    assert text.startswith("utils.run.variable_filter = '^nothing$' leaves none of the ")
    assert text.endswith(" variables to train; the first is shared/embedding")


def test_filter_of_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        tiny.make(tmp_path, variable_filter=3).train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    assert str(error.value) == (
        "utils.run.variable_filter must be None, a regular expression, or a function of a "
        "variable; got 3"
    )


def test_filter_trains_only_what_it_names(tmp_path: Path) -> None:
    data = tiny.input_fn(tiny.ids(16))
    tiny.make(tmp_path, variable_filter="^decoder/").train(data, max_steps=1)
    before = tiny.weights(tmp_path)
    tiny.make(tmp_path, variable_filter="^decoder/").train(data, max_steps=2)
    after = tiny.weights(tmp_path)
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert {name for name in changed if not name.startswith("decoder/")} == {"global_step"}
    assert "decoder/logits/kernel" in changed


def test_no_optimizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        tiny.make(tmp_path, optimizer=None).train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    assert str(error.value) == (
        "training needs utils.run.optimizer; in gin, for example: "
        "utils.run.optimizer = @optimize.AdafactorOptimizer"
    )


def test_reports_at_least_every_step() -> None:
    with pytest.raises(ValueError) as error:
        session_settings.SessionSettings(log_every_steps=0)
    first_line = str(error.value).splitlines()[0]  # gin adds where it was called
    assert first_line == "hmoe.Session.log_every_steps is 0; use 1 or more"


def test_activations_are_of_one_of_two_types() -> None:
    with pytest.raises(ValueError) as error:
        session_settings.SessionSettings(activation_dtype="float16")
    first_line = str(error.value).splitlines()[0]
    assert first_line == ("hmoe.Session.activation_dtype is 'float16'; use 'float32' or 'bfloat16'")


def test_each_microbatch_learns_its_number() -> None:
    """On a mesh, with rows cut into microbatches as upstream cuts them."""
    with tf.Graph().as_default(), tf.Session() as tf_session:
        tf.train.create_global_step()
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        batch = mtf.Dimension("batch", 12)
        weight = mtf.get_variable(mesh, "w", [])
        numbers = batch_features.microbatch_feature(mesh, batch, 3)

        def call(parts):
            number = batch_features.microbatch_number(parts["number"])
            share = mtf.one_hot(number, mtf.Dimension("which", 3))
            return {"loss": weight * 1.0, "seen": share * mtf.to_float(number + 1)}

        _, outputs = mtf.serialize_training_step({"number": numbers}, call, batch, 3)
        seen = mtf.anonymize(outputs["seen"])
        lowering = meshes.lower(mesh, "cols:2", "batch:cols")
        result = lowering.export_to_tf_tensor(seen)
        tf_session.run(tf.global_variables_initializer())
        tf_session.run(lowering.copy_masters_to_slices())
        assert tf_session.run(result).tolist() == [1.0, 2.0, 3.0]
