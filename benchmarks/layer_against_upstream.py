"""How long does a two-level layer take, beside Mesh TensorFlow's own?

Both layers get the same weights and tokens, route top-2 at both levels with policy "all", and are
run in turns: forward and backward, gradients of all weights and of the inputs. Their outputs and
losses are compared before anything is timed. Useful work is the matrix multiplies of the experts'
slots; the peak is that of one large multiply, measured between the turns.
"""
from __future__ import annotations

import argparse
import platform
import statistics
import time

import numpy as np

from hmoe import compat
from hmoe.compat.stack import mtf, tf

compat.behave_like_v1()

from mesh_tensorflow.transformer import moe as upstream  # noqa: E402

import hmoe  # noqa: E402

OUTER_BATCH, BATCH, LENGTH, EXPERTS = 2, 32, 64, 4
# Slots a token, at capacity factors of 1.25 and 1.0.
SLOTS = 1.25


def _inner_group(group):
    """Upstream's group size at the second level, which may exceed the size asked for."""
    num_groups = BATCH * LENGTH // group
    arriving = OUTER_BATCH * num_groups * int(group * 1.25 / EXPERTS)
    return upstream._split_into_groups(arriving, group, 1)[1]


def _ours(x, depth, hidden, group):
    levels = [hmoe.Level(name, num_experts=EXPERTS, group_size=size,
                         router=hmoe.TopKRouter(2, policy_train="all"))
              for name, size in (("outer", group), ("inner", _inner_group(group)))]
    layer = hmoe.HierarchicalMoE(levels, hmoe.FeedForwardExperts(hidden_size=hidden))
    result = layer(x, depth, train=True)
    return result.outputs, result.loss


def _upstreams(x, depth, hidden, group):
    hparams = upstream.HParams(
        moe_gating="top_2", moe_num_experts=[EXPERTS, EXPERTS], moe_loss_coef=0.01,
        moe_hidden_size=hidden, moe_group_size=group, moe_min_expert_capacity=4,
        moe_capacity_factor_train=1.25, moe_capacity_factor_eval=2.0,
        moe_capacity_factor_second_level=1.0, moe_use_second_place_loss=False,
        moe_second_policy_train="all", moe_second_policy_eval="all",
        moe_second_threshold_train=0.2, moe_second_threshold_eval=0.2,
        moe_word_embed_mode=None, moe_z_loss=None)
    everywhere = mtf.ones(x.mesh, mtf.Shape(x.shape.dims[:-1]))
    return upstream.transformer_moe_layer_v2(
        x, depth, hparams, True, mtf.VariableDType(), layout="", mesh_shape="",
        nonpadding=everywhere, num_microbatches=1)


class Timed:
    """A layer in a session of its own."""

    def __init__(self, layer, model_size, hidden, group):
        graph = tf.Graph()
        with graph.as_default():
            named = mtf.Graph()
            mesh = mtf.Mesh(named, "mesh")
            shape = [("outer_batch", OUTER_BATCH), ("batch", BATCH), ("length", LENGTH),
                     ("d_model", model_size)]
            dims = [mtf.Dimension(*pair) for pair in shape]
            tokens = np.random.RandomState(0).randn(*[size for _, size in shape])
            x = mtf.import_fully_replicated(
                mesh, tf.constant(tokens.astype(np.float32)), mtf.Shape(dims))
            outputs, loss = layer(x, dims[-1], hidden, group)
            objective = loss + mtf.reduce_mean(mtf.square(outputs))
            weights = [variable.outputs[0] for variable in named.trainable_variables]
            gradients = mtf.gradients([objective], [*weights, x])
            engine = mtf.placement_mesh_impl.PlacementMeshImpl(
                mtf.Shape([]), mtf.LayoutRules([]), [""])
            lowering = mtf.Lowering(named, {mesh: engine})
            self._compared = [lowering.export_to_tf_tensor(t) for t in (outputs, loss)]
            # A number of every gradient: what nothing depends on is not computed.
            self._all = [tf.reduce_sum(lowering.export_to_tf_tensor(g)) for g in gradients]
            variables = sorted(tf.global_variables(), key=lambda v: v.op.name)
            self._session = tf.Session()
            self._session.run(tf.global_variables_initializer())
            for number, variable in enumerate(v for v in variables if "slice" not in v.op.name):
                draws = np.random.RandomState(number).randn(*variable.shape.as_list())
                variable.load(draws / np.sqrt(variable.shape.as_list()[-2]), self._session)
            self._session.run(lowering.copy_masters_to_slices())

    def compared(self):
        return self._session.run(self._compared)

    def seconds(self):
        start = time.perf_counter()
        self._session.run(self._all)
        return time.perf_counter() - start


def _peak(session, product, flops):
    start = time.perf_counter()
    session.run(product)
    return flops / (time.perf_counter() - start)


def measure(model_size, hidden, group, turns):
    """Prints the medians of one case."""
    sides = {"hmoe": Timed(_ours, model_size, hidden, group),
             "upstream v2": Timed(_upstreams, model_size, hidden, group)}
    (first, loss), (second, other_loss) = (side.compared() for side in sides.values())
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-4)
    size = 2048
    with tf.Graph().as_default():
        square = tf.random.uniform([size, size])
        product = tf.reduce_sum(tf.matmul(square, square))
        session = tf.Session()
    for side in sides.values():
        side.seconds()
    times = {name: [] for name in sides}
    peaks = []
    for _ in range(turns):
        for name, side in sides.items():
            times[name].append(side.seconds())
        peaks.append(_peak(session, product, 2 * size ** 3))
    peak = statistics.median(peaks)
    tokens = OUTER_BATCH * BATCH * LENGTH
    useful = 3 * 2 * 2 * tokens * SLOTS * model_size * hidden
    print(f"{tokens} tokens, d_model {model_size}, hidden {hidden}, {EXPERTS} x {EXPERTS} experts,"
          f" group {group}, peak {peak / 1e9:.0f} GFLOP/s")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"  {name:12} {median:.3f} s (median of {turns}, {min(seconds):.3f} to"
              f" {max(seconds):.3f}), {100 * useful / median / peak:.0f} % of peak")


def main():
    """Measures the sizes that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_size", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--groups", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--turns", type=int, default=5)
    flags = parser.parse_args()
    print(f"TensorFlow {tf.__version__}, Python {platform.python_version()},"
          f" {platform.machine()}")
    for group in flags.groups:
        measure(flags.model_size, flags.hidden, group, flags.turns)


if __name__ == "__main__":
    main()
