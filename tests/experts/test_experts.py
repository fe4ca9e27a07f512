"""Experts by themselves: what they compute, several outputs, and variables of their own."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.experts import split_merge
from hmoe.mesh.randomness import RandomSource
from tests import graphs, meshes, seeded, tolerances

M, HIDDEN, N = 7, 24, 5
EXPERTS = {
    1: (("experts", 6),),
    2: (("expert_y", 2), ("expert_x", 4)),
    3: (("expert_z", 3), ("expert_y", 2), ("expert_x", 4)),
}
MESH, LAYOUT = "rows:2;cols:2", "expert_x:cols;experts:cols;expert_y:rows"
QK = ("q_wo", "k_wo")


@dataclasses.dataclass
class Ran:
    outputs: np.ndarray
    gradients: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    slices: dict[str, Any]


def run(
    experts, num_levels=2, mesh_shape="", layout="", weights=None, train=False, dtype=tf.float32
):
    """Applies experts to buffers of three slots; gradients are those of sum(outputs ** 2)."""
    dims = [*EXPERTS[num_levels], ("expert_capacity", 3), ("d_model", M)]
    with tf.Graph().as_default():
        graphs.read_variables_once()
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        all_dims = graphs.mtf_dims(dims)
        x = mtf.cast(graphs.constant(mesh, seeded.tokens_of(dims), all_dims), dtype)
        outputs = experts(
            x,
            mtf.Dimension("d_out", N),
            all_dims[:num_levels][::-1],
            train=train,
            variable_dtype=mtf.VariableDType(tf.float32, tf.float32, dtype),
            random=RandomSource(0, "experts"),
        )
        assert [d.name for d in outputs.shape.dims] == [
            *[name for name, _ in EXPERTS[num_levels]],
            "expert_capacity",
            *(["outputs"] if experts.num_outputs > 1 else []),
            "d_out",
        ]
        variables = graph.trainable_variables
        outputs = mtf.cast(outputs, tf.float32)
        gradients = mtf.gradients(
            [mtf.reduce_sum(mtf.square(outputs))], [v.outputs[0] for v in variables]
        )
        engine = meshes.implementation(mesh_shape, layout)
        wanted = [
            outputs,
            {v.name: mtf.cast(g, tf.float32) for v, g in zip(variables, gradients)},
            {v.name: v.outputs[0] for v in variables},
        ]
        # Variables of one shape would be put into one and lose their names.
        lowering = meshes.lower(mesh, mesh_shape, layout, autostack=False)
        fetched = tf.nest.map_structure(lowering.export_to_tf_tensor, wanted)
        with graphs.quick_session() as session:
            session.run(tf.global_variables_initializer())
            graphs.load_weights(
                session,
                lowering,
                (lambda name, shape: weights[name]) if weights else seeded.weights_of,
            )
            got = session.run(fetched)
        slices = {v.name: tuple(engine.slice_shape(v.shape)) for v in variables}
    return Ran(*got, slices)


def with_gating(weights, num_levels):
    """The weights beside gating weights, as a layer has them."""
    sizes = [size for _, size in EXPERTS[num_levels]]
    names = (
        ["top_2_gating"] if num_levels == 1 else ["outer_gating", "inner_gating", "level_2_gating"]
    )
    gating = {
        f"{names[level]}/kernel": np.ones(sizes[len(sizes) - level :] + [M, sizes[-1 - level]])
        for level in range(num_levels)
    }
    return {**weights, **gating}


def split(weights, num_levels):
    return split_merge.split_experts(with_gating(weights, num_levels))


def merge(weights, num_levels):
    return split_merge.merge_experts(with_gating(weights, num_levels))


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0.0),
    "linear": lambda x: x,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
}


def expected(experts, weights, num_levels):
    """Expert by expert in float64: [*experts, slots, outputs, N]."""
    sizes = [size for _, size in EXPERTS[num_levels]]
    x = seeded.tokens_of([*EXPERTS[num_levels], ("expert_capacity", 3), ("d_model", M)])
    out = np.zeros([*sizes, 3, experts.num_outputs, N])

    def project(value, name, place):
        made = value.astype(np.float64) @ weights[f"{name}/kernel"][place]
        return made + (weights[f"{name}/bias"][place] if experts.use_bias else 0.0)

    gated = len(experts.activations) > 1
    for place in np.ndindex(*sizes):
        hidden = 1.0
        for number, activation in enumerate(experts.activations):
            name = f"wi_{number}" if gated else "wi"
            hidden = hidden * ACTIVATIONS[activation](project(x[place], name, place))
        for number, name in enumerate(experts.output_names):
            out[place][:, number] = project(hidden, name, place)
    return out if experts.num_outputs > 1 else out[..., 0, :]


SETTINGS = {
    "one level": (1, {}),
    "two outputs": (2, {"output_names": QK}),
    "gated, biases": (2, {"activation": ["sigmoid", "linear"], "use_bias": True}),
    "gated, biases, three outputs, three levels": (
        3,
        {
            "activation": ["sigmoid", "linear"],
            "use_bias": True,
            "output_names": ["q_wo", "k_wo", "v_wo"],
        },
    ),
}


@pytest.mark.parametrize(("num_levels", "settings"), SETTINGS.values(), ids=SETTINGS)
def test_outputs_are_those_of_each_expert(num_levels, settings):
    experts = hmoe.FeedForwardExperts(hidden_size=HIDDEN, **settings)
    got = run(experts, num_levels)
    tolerances.assert_close(
        got.outputs, expected(experts, got.weights, num_levels), tolerances.ORACLE
    )


@pytest.mark.parametrize(("num_levels", "settings"), SETTINGS.values(), ids=SETTINGS)
def test_separate_experts_are_equal(num_levels, settings):
    joined = run(hmoe.FeedForwardExperts(hidden_size=HIDDEN, **settings), num_levels)
    weights = split(joined.weights, num_levels)
    experts = hmoe.FeedForwardExperts(hidden_size=HIDDEN, separate=True, **settings)
    # A third level is never split, and so many variables take long on many devices.
    for mesh in [{}, {"mesh_shape": MESH, "layout": LAYOUT}][: 1 if num_levels > 2 else 2]:
        separate = run(experts, num_levels, weights=weights, **mesh)
        assert set(separate.weights) == {name for name in weights if "gating" not in name}
        tolerances.assert_close(separate.outputs, joined.outputs, tolerances.SAME)
        gradients = merge(separate.gradients, num_levels)
        for name, gradient in joined.gradients.items():
            tolerances.assert_close(gradients[name], gradient, tolerances.SAME, name)
        merged = merge(separate.weights, num_levels)
        for name, value in joined.weights.items():
            np.testing.assert_array_equal(merged[name], value)


def test_joined_experts_are_split_over_a_mesh_and_separate_ones_are_whole():
    joined = run(hmoe.FeedForwardExperts(hidden_size=HIDDEN, output_names=QK), 2, MESH, LAYOUT)
    assert joined.slices == {
        "wi/kernel": (1, 2, M, HIDDEN),
        "q_wo/kernel": (1, 2, HIDDEN, N),
        "k_wo/kernel": (1, 2, HIDDEN, N),
    }
    separate = run(hmoe.FeedForwardExperts(hidden_size=HIDDEN, separate=True), 2, MESH, LAYOUT)
    assert separate.slices["expert_3_1/wi/kernel"] == (M, HIDDEN)
    assert len(separate.slices) == 2 * 8


def test_names_of_separate_experts_have_the_outermost_level_first():
    got = run(hmoe.FeedForwardExperts(hidden_size=HIDDEN, use_bias=True, separate=True), 3)
    assert "expert_3_1_2/wi/bias" in got.weights
    assert "expert_2_1_3/wi/bias" not in got.weights
    assert got.weights["expert_3_1_2/wo/kernel"].shape == (HIDDEN, N)


@pytest.mark.parametrize("separate", [False, True], ids=["joined", "separate"])
@pytest.mark.parametrize(("num_levels", "settings"), SETTINGS.values(), ids=SETTINGS)
def test_number_of_parameters(num_levels, settings, separate):
    experts = hmoe.FeedForwardExperts(hidden_size=HIDDEN, separate=separate, **settings)
    built = sum(value.size for value in run(experts, num_levels).weights.values())
    num_experts = np.prod([size for _, size in EXPERTS[num_levels]])
    assert experts.num_params(M, N) * num_experts == built
    assert experts.num_outputs == len(settings.get("output_names", ["wo"]))


def test_outputs_are_dropped_one_by_one():
    experts = hmoe.FeedForwardExperts(hidden_size=HIDDEN, output_names=QK, output_dropout_rate=0.5)
    dropped = run(experts, train=True).outputs == 0.0
    assert 0.3 < dropped.mean() < 0.7
    assert (dropped[..., 0, :] != dropped[..., 1, :]).any()
    assert not (run(experts).outputs == 0.0).any()


def test_separate_experts_in_bfloat16():
    joined = run(hmoe.FeedForwardExperts(hidden_size=HIDDEN, use_bias=True), dtype=tf.bfloat16)
    weights = split(
        {name: np.asarray(value, np.float32) for name, value in joined.weights.items()}, 2
    )
    separate = run(
        hmoe.FeedForwardExperts(hidden_size=HIDDEN, use_bias=True, separate=True),
        weights=weights,
        dtype=tf.bfloat16,
    )
    tolerances.assert_close(separate.outputs, joined.outputs, tolerances.BFLOAT16)


def test_other_outputs_of_the_same_experts():
    experts = hmoe.FeedForwardExperts(
        hidden_size=HIDDEN,
        activation=["gelu", "linear"],
        use_bias=True,
        dropout_rate=0.1,
        output_dropout_rate=0.2,
        separate=True,
    )
    other = experts.with_outputs(QK)
    assert (other.output_names, other.num_outputs) == (QK, 2)
    assert dataclasses.replace(other, output_names=experts.output_names) == experts


NAMES = (
    "FeedForwardExperts: output_names is {}; give a list of different words that do not begin"
    " with 'wi' or 'expert', such as ['wo'], or ['q_wo', 'k_wo'] for queries and keys"
)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"output_names": "wo"}, NAMES.format("'wo'")),
        ({"output_names": []}, NAMES.format("[]")),
        ({"output_names": ["a", "a"]}, NAMES.format("['a', 'a']")),
        ({"output_names": ["wi_0"]}, NAMES.format("['wi_0']")),
        ({"output_names": ["expert_1"]}, NAMES.format("['expert_1']")),
        ({"output_names": ["a/b"]}, NAMES.format("['a/b']")),
        ({"output_names": [3]}, NAMES.format("[3]")),
        ({"separate": 1}, "FeedForwardExperts: separate is 1; it must be True or False"),
    ],
    ids=str,
)
def test_errors(arguments, text):
    with pytest.raises(ValueError) as error:
        hmoe.FeedForwardExperts(hidden_size=3, **arguments)
    assert str(error.value) == text


class Scaled(hmoe.FeedForwardExperts):
    """A user's own experts, with a constructor of their own."""

    def __init__(self, scale, **settings):
        super().__init__(**settings)
        object.__setattr__(self, "scale", scale)


def test_other_outputs_of_a_users_own_experts():
    other = Scaled(3.0, hidden_size=5).with_outputs(QK)
    assert type(other) is Scaled
    assert (other.scale, other.output_names, other.hidden_size) == (3.0, QK, 5)
