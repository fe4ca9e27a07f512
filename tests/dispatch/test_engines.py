"""The two ways of moving tokens: against loops, against each other, and on which mesh."""

from __future__ import annotations

import itertools
import re
import types

import numpy as np
import pytest

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.dispatch import by_einsum, by_index, operations
from tests import graphs, meshes, seeded, tolerances, tpu_slices
from tests.run_layer import run_layer

BOTH = ("index", "einsum")

OUTER, GROUPS, TOKENS, EXPERTS, CAPACITY = 2, 3, 5, 4, 3


def tables(choices, in_order):
    """(expert, position) of random choices: no slot twice, some choices without one."""
    generator = np.random.RandomState(choices)
    expert = np.zeros([OUTER, GROUPS, TOKENS, choices], np.int32)
    position = np.full_like(expert, -1)
    for group in itertools.product(range(OUTER), range(GROUPS)):
        slots = generator.permutation(EXPERTS * CAPACITY)
        for token, number in itertools.product(range(TOKENS), range(choices)):
            free = [s for s in slots if not in_order or s // CAPACITY == number]
            if free and generator.rand() < 0.8:
                slots = slots[slots != free[0]]
                expert[group][token, number] = free[0] // CAPACITY
                position[group][token, number] = free[0] % CAPACITY
            elif in_order:
                expert[group][token, number] = number
    return expert, position


def placed(expert, position):
    """(outer, group, token, expert, position) of every choice that has a slot."""
    for at in np.argwhere(position >= 0):
        yield (*at, expert[tuple(at)], position[tuple(at)])


def by_loops(tokens, buffers, weights, expert, position):
    """What `moved` returns, but for gradients."""
    slots = np.zeros([EXPERTS, OUTER, GROUPS, CAPACITY, *tokens.shape[3:]])
    plain, weighted = np.zeros([2, OUTER, GROUPS, TOKENS, *buffers.shape[4:]])
    fields = np.zeros([EXPERTS, OUTER, GROUPS, CAPACITY, 2])
    for o, g, s, k, x, c in placed(expert, position):
        slots[x, o, g, c] = tokens[o, g, s]
        plain[o, g, s] += buffers[x, o, g, c]
        weighted[o, g, s] += weights[o, g, s, k] * buffers[x, o, g, c]
        fields[x, o, g, c] = weights[o, g, s, k], -2.0 * weights[o, g, s, k]
    return {"slots": slots, "plain": plain, "weighted": weighted, "fields": fields}


def gradients_by_loops(tokens, buffers, weights, expert, position, directions):
    """Of the sum of all that is moved times its direction."""
    d_tokens, d_buffers = np.zeros_like(tokens, float), np.zeros_like(buffers, float)
    d_weights = np.zeros_like(weights, float)
    for o, g, s, k, x, c in placed(expert, position):
        d_tokens[o, g, s] += directions["slots"][x, o, g, c]
        d_buffers[x, o, g, c] += (
            directions["plain"][o, g, s] + weights[o, g, s, k] * directions["weighted"][o, g, s]
        )
        d_weights[o, g, s, k] += (directions["weighted"][o, g, s] * buffers[x, o, g, c]).sum()
    return [d_tokens, d_buffers, d_weights]


def dimensions(choices, trailing):
    sizes = dict(
        outer=OUTER,
        groups=GROUPS,
        group_size=TOKENS,
        choice=choices,
        experts=EXPERTS,
        capacity=CAPACITY,
    )
    dims = {name: mtf.Dimension(name, size) for name, size in sizes.items()}
    return dims, [mtf.Dimension(f"depth_{n}", size) for n, size in enumerate(trailing)]


def moved(engine, arrays, in_order, directions, mesh_shape="", layout=""):
    """Everything that the operations compute, by one engine."""
    tokens, buffers, weights, expert, position = arrays
    dims, trailing = dimensions(weights.shape[-1], tokens.shape[3:])
    d = dims
    with tf.Graph().as_default():
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        of_tokens = [d["outer"], d["groups"], d["group_size"]]
        of_slots = [d["experts"], d["outer"], d["groups"], d["capacity"]]
        x = graphs.constant(mesh, tokens, of_tokens + trailing)
        y = graphs.constant(mesh, buffers, of_slots + trailing)
        w = graphs.constant(mesh, weights, [*of_tokens, d["choice"]])
        where = operations.slot_index(
            graphs.constant(mesh, expert, w.shape.dims),
            graphs.constant(mesh, position, w.shape.dims),
            [d["experts"], d["capacity"]],
            in_order=in_order,
            engine=engine,
        )
        out = {
            "slots": operations.to_slots(x, where),
            "plain": operations.to_tokens(y, where),
            "weighted": operations.to_tokens(y, where, w),
        }
        objective = mtf.add_n(
            [
                mtf.reduce_sum(out[name] * graphs.constant(mesh, each, out[name].shape.dims))
                for name, each in directions.items()
            ]
        )
        out["fields"] = operations.choices_to_slots(
            [w, -2.0 * w], where, mtf.Dimension("fields", 2)
        )
        gradients = mtf.gradients([objective], [x, y, w])
        lowering = meshes.lower(mesh, mesh_shape, layout)
        with graphs.quick_session() as session:
            return session.run(
                [
                    {name: lowering.export_to_tf_tensor(each) for name, each in out.items()},
                    [lowering.export_to_tf_tensor(each) for each in gradients],
                ]
            )


def arrays_and_directions(choices, in_order, trailing):
    generator = np.random.RandomState(7)

    def draw(*shape):
        return generator.randn(*shape, *trailing).astype(np.float32)

    tokens = draw(OUTER, GROUPS, TOKENS)
    buffers = draw(EXPERTS, OUTER, GROUPS, CAPACITY)
    expert, position = tables(choices, in_order)
    weights = generator.rand(*expert.shape).astype(np.float32) * (position >= 0)
    directions = {
        "slots": draw(*buffers.shape[:4]),
        "plain": draw(*tokens.shape[:3]),
        "weighted": draw(*tokens.shape[:3]),
    }
    return (tokens, buffers, weights, expert, position), directions


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize(
    ("choices", "in_order", "trailing"),
    [
        (1, False, (7,)),
        (2, False, (7,)),
        (3, False, (2, 7)),
        (EXPERTS, True, (7,)),
        (EXPERTS, True, (2, 7)),
    ],
)
def test_moves_equal_loops(engine, choices, in_order, trailing):
    arrays, directions = arrays_and_directions(choices, in_order, trailing)
    out, gradients = moved(engine, arrays, in_order, directions)
    for name, expected in by_loops(*arrays).items():
        tolerances.assert_close(out[name], expected, tolerances.SAME, name)
    for name, got, expected in zip(
        ("tokens", "buffers", "weights"), gradients, gradients_by_loops(*arrays, directions)
    ):
        tolerances.assert_close(got, expected, tolerances.SAME, name)


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("in_order", [False, True])
def test_moves_equal_loops_where_groups_and_depth_are_split(engine, in_order):
    arrays, directions = arrays_and_directions(EXPERTS, in_order, (6,))
    out, gradients = moved(
        engine, arrays, in_order, directions, "rows:2;cols:3", "outer:rows;depth_0:cols"
    )
    for name, expected in by_loops(*arrays).items():
        tolerances.assert_close(out[name], expected, tolerances.SAME, name)
    for got, expected in zip(gradients, gradients_by_loops(*arrays, directions)):
        tolerances.assert_close(got, expected, tolerances.SAME)


@pytest.mark.parametrize("dim", ["group_size", "choice", "experts", "capacity"])
def test_what_moves_within_a_group_may_not_be_split(dim):
    choices = 2
    size = dimensions(choices, ())[0][dim].size
    arrays, directions = arrays_and_directions(choices, False, (7,))
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"slot_index: Dimension(name='{dim}', size={size}) must not be split over the mesh, but"
            " the layout does; remove its rule"
        ),
    ):
        moved("auto", arrays, False, directions, f"rows:{size}", f"{dim}:rows")


ROUTERS = {
    "top_2": lambda: hmoe.TopKRouter(k=2, policy_train="random"),
    "top_3": lambda: hmoe.TopKRouter(k=3, retries=1),
    "switch": lambda: hmoe.SwitchRouter(priority=True),
    "expert_choice": hmoe.ExpertChoiceRouter,
    "over_tokens": lambda: hmoe.ExpertChoiceRouter(softmax_over="tokens"),
    "uniform": lambda: hmoe.UniformRouter(k=2),
}
DIMS = (("outer_batch", 2), ("batch", 3), ("length", 8), ("d_model", 5))


def layer(outer, inner, engine):
    return hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(name="outer", num_experts=3, router=ROUTERS[outer](), group_size=8),
            hmoe.Level(name="inner", num_experts=4, router=ROUTERS[inner](), group_size=6),
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=11, activation=["gelu", "linear"]),
        metrics="full",
        engine=engine,
    )


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("top_2", "top_3"),
        ("top_3", "switch"),
        ("switch", "expert_choice"),
        ("expert_choice", "over_tokens"),
        ("over_tokens", "uniform"),
        ("uniform", "top_2"),
    ],
)
def test_engines_agree_on_a_layer(outer, inner):
    x, importance = seeded.tokens_of(DIMS), seeded.importance_of(DIMS)
    one, other = (
        run_layer(layer(outer, inner, engine), x, DIMS, importance=importance) for engine in BOTH
    )
    tolerances.assert_close(one.outputs, other.outputs, tolerances.SAME)
    for kind in ("losses", "sums", "gradients"):
        mine, its = getattr(one, kind), getattr(other, kind)
        assert mine.keys() == its.keys()
        for name in mine:
            tolerances.assert_close(mine[name], its[name], tolerances.SAME, f"{kind} {name}")


@pytest.mark.parametrize(("outer", "inner"), [("top_2", "switch"), ("expert_choice", "top_3")])
def test_engines_agree_in_bfloat16(outer, inner):
    x = seeded.tokens_of(DIMS)
    one, other = (
        run_layer(layer(outer, inner, engine), x, DIMS, dtype=tf.bfloat16) for engine in BOTH
    )
    tolerances.assert_close(one.outputs, other.outputs, tolerances.BFLOAT16)


def test_a_mesh_of_tpus_multiplies_and_others_gather():
    devices = meshes.implementation("rows:2")
    tpus = tpu_slices.engine(
        types.SimpleNamespace(
            mesh_shape=mtf.convert_to_shape("rows:8"), layout_rules=mtf.convert_to_layout_rules("")
        ),
        8,
    )
    assert operations.engine_for(devices, "auto") is by_index
    assert operations.engine_for(tpus, "auto") is by_einsum
    for mesh_impl in (devices, tpus):
        assert operations.engine_for(mesh_impl, "index") is by_index
        assert operations.engine_for(mesh_impl, "einsum") is by_einsum


def test_an_engine_that_does_not_exist():
    with pytest.raises(
        ValueError,
        match=re.escape(
            "HierarchicalMoE: engine is 'scatter'; it must be one of auto, index, einsum"
        ),
    ):
        layer("top_2", "top_2", "scatter")


@pytest.mark.parametrize("engine", BOTH)
def test_nothing_of_tokens_times_slots_is_made_by_index(engine):
    largest = 0
    with tf.Graph().as_default() as tf_graph:
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        x = graphs.constant(mesh, seeded.tokens_of(DIMS), graphs.mtf_dims(DIMS))
        result = hmoe.HierarchicalMoE(
            levels=[
                hmoe.Level(name="only", num_experts=5, router=hmoe.TopKRouter(k=2), group_size=24)
            ],
            experts=hmoe.FeedForwardExperts(hidden_size=3),
            engine=engine,
        )(x, mtf.Dimension("d_out", 7), train=True)
        mtf.gradients([mtf.reduce_sum(result.outputs)], [x])
        meshes.lower(mesh)
        for operation in tf_graph.get_operations():
            for output in operation.outputs:
                if output.shape.is_fully_defined():
                    largest = max(largest, output.shape.num_elements())
    # 2 groups of 24 tokens; 5 experts of 6 slots each.
    tokens, slots = 2 * 24, 5 * 6
    assert (largest >= tokens * slots) == (engine == "einsum")
