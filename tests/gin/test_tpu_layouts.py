"""The layouts of TPU slices, lowered for their cores without a TPU, forward and backward."""

from __future__ import annotations

import collections
import math
import pathlib
import re

import pytest

from hmoe.routing import balancing
from hmoe.startup import gin_files
from hmoe.t5.graphs import batch_features as feature_lib
from hmoe.t5.graphs import call_model
from tests import tpu_slices
from tests.gin import configs
from tests.gin.configs import mtf, tf

NUM_LAYERS = 2  # one of experts in the encoder, one in the decoder


def _lowered(settings, num_cores):
    """Loss, gradients and balancing of one batch; returns (lowering, TensorFlow's graph)."""
    with tf.Graph().as_default() as tf_graph:
        tf.train.create_global_step()
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        given = {name: tf.constant(ids) for name, ids in configs.features(settings).items()}
        dims = feature_lib.batch_dims(settings, with_outer_batch=True)
        named = feature_lib.import_features(settings, mesh, given, dims)
        _, loss, records = call_model.call_model(settings, named, "train")
        mtf.gradients([loss], [v.outputs[0] for v in graph.trainable_variables])
        for record in records:
            balancing.apply_all(record.bias_updates, record.sums)
        lowering = mtf.Lowering(graph, {mesh: tpu_slices.engine(settings, num_cores)})
    return lowering, tf_graph


def _split_counts(tf_graph):
    """How many AllToAll operations there are of each split count."""
    return collections.Counter(
        op.get_attr("split_count") for op in tf_graph.get_operations() if op.type == "AllToAll"
    )


@pytest.mark.parametrize(
    "num_cores",
    [8, *(pytest.param(number, marks=pytest.mark.slow) for number in sorted(tpu_slices.CHIPS)[1:])],
)
def test_tokens_cross_each_axis_once_there_and_once_back(num_cores, tmp_path):
    layout, bindings = tpu_slices.layout_of(num_cores)
    with configs.parsed(["models/hierarchical_tiny.gin", layout], bindings):
        settings = configs.described(str(tmp_path)).settings
        lowering, tf_graph = _lowered(settings, num_cores)
    # Forward and backward, out and back; the outer axis also carries importance and what tokens
    # have reached.
    tokens = 2 * 2 * NUM_LAYERS
    along_axes = configs.collectives(lowering, "alltoall")
    assert along_axes == {"cols": tokens + 2 * NUM_LAYERS, "rows": tokens}
    cols, rows = tpu_slices.axes_of(num_cores)
    expected = collections.Counter({cols: along_axes["cols"]})
    expected[rows] += along_axes["rows"]
    assert _split_counts(tf_graph) == expected
    assert not configs.collectives(lowering, "allconcat")


@pytest.mark.slow
def test_one_level_crosses_the_far_axis_alone(tmp_path):
    bindings = [*tpu_slices.SHRUNK, "utils.run.batch_size = 64", "num_experts = 8"]
    with configs.parsed(["models/one_level_tiny.gin", "layouts/v3-32.gin"], bindings):
        lowering, _ = _lowered(configs.described(str(tmp_path)).settings, 32)
    assert configs.collectives(lowering, "alltoall") == {"cols": 2 * 2 * NUM_LAYERS}


@pytest.mark.slow
def test_third_axis_splits_layers(tmp_path):
    """The mesh that layouts/_tpu.gin gives as an example."""
    mesh = re.search(
        r'utils.run.mesh_shape = "cols:8;rows:8;model:2"', configs.text("layouts/_tpu.gin")
    ).group()
    bindings = [
        *tpu_slices.SHRUNK,
        mesh,
        "utils.run.batch_size = 128",
        "num_outer_experts = 8",
        "num_inner_experts = 8",
        "tpu_estimator_model_fn.outer_batch_size = 8",
        "hmoe.HierarchicalMoE.inserted_outer_batch = 8",
    ]
    with configs.parsed(["models/hierarchical_tiny.gin", "layouts/v3-128.gin"], bindings):
        lowering, _ = _lowered(configs.described(str(tmp_path)).settings, 128)
    kernel = next(v for v in lowering.graph.trainable_variables if "/wi_0/kernel" in v.name)
    assert math.prod(lowering.mesh_impl(kernel).slice_shape(kernel.shape)) * 128 == (
        kernel.shape.size
    )
    assert set(configs.collectives(lowering, "alltoall")) == {"cols", "rows"}


def _router_files():
    folder = pathlib.Path(gin_files.folder()) / "models" / "routers"
    return sorted(file.name for file in folder.glob("*.gin"))


@pytest.mark.slow
@pytest.mark.parametrize("name", _router_files())
def test_routers_exchange_no_more_than_top_2(name, tmp_path):
    bindings = [
        *tpu_slices.SHRUNK,
        "utils.run.batch_size = 16",
        "num_outer_experts = 4",
        "num_inner_experts = 4",
        "hmoe.Level.balance_loss_over = 'example'",
    ]
    if "expert_choice" in name:
        bindings.pop()
    files = ["models/hierarchical_tiny.gin", f"models/routers/{name}", "layouts/v3-8.gin"]
    with configs.parsed(files, bindings):
        lowering, _ = _lowered(configs.described(str(tmp_path)).settings, 8)
    tokens = 2 * 2 * NUM_LAYERS
    assert configs.collectives(lowering, "alltoall") == {
        "cols": tokens + 2 * NUM_LAYERS,
        "rows": tokens,
    }
    assert not configs.collectives(lowering, "allconcat")
