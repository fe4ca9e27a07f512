"""Batch sizes and features that do not suit the model, and the numbers of microbatches."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs import batch_features
from tests import meshes
from tests.t5 import tiny


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


def test_each_microbatch_gets_its_number() -> None:
    """Upstream cuts the rows into microbatches, on a mesh."""
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
