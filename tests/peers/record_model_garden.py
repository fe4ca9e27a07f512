"""Records what TF Model Garden's mixture of experts computes, in model_garden.npz.

To run it, make an environment with TensorFlow 2.21 (that of requirements/default.txt will do), and
install into it the packages of model_garden.txt, with nothing of what they ask for
(`--no-deps`): Model Garden's layer needs Keras 2 beside TensorFlow, and none of its other
dependencies. Then, from the repository's root:

    python -m tests.peers.record_model_garden
"""

from __future__ import annotations

import functools
from importlib.metadata import version

import tensorflow as tf
import tf_keras
from official.nlp.modeling.layers import moe

from tests import seeded
from tests.peers import recorded

BATCH, LENGTH, DEPTH, HIDDEN, BACKBONE, EXPERTS = 4, 6, 7, 11, 9, 5
Z_WEIGHT = 0.3

# Mesh TensorFlow's GELU is the one with tanh; Model Garden's default is exact.
ACTIVATIONS = {
    "gelu": functools.partial(tf_keras.activations.gelu, approximate=True),
    "relu": tf_keras.activations.relu,
}

# Capacity is the nearest to what the factor says; ours is never more than it says.
CASES = {
    # Groups of 12 tokens, 2.88 and so 3 slots an expert.
    "two_examples": dict(
        examples_per_group=2.0, train_capacity_factor=1.2, training=True, activation="gelu"
    ),
    # Groups of 3 tokens, 1 slot.
    "half_an_example": dict(
        examples_per_group=0.5, eval_capacity_factor=1.7, training=False, activation="relu"
    ),
    # One group of 24 tokens, 4 slots.
    "backbone": dict(
        examples_per_group=4.0,
        train_capacity_factor=0.85,
        training=True,
        activation="gelu",
        backbone=True,
    ),
    # Groups of 6 tokens, 1 slot.
    "backbone_by_example": dict(
        examples_per_group=1.0,
        train_capacity_factor=0.85,
        training=True,
        activation="relu",
        backbone=True,
    ),
}


def names_of(backbone: bool) -> dict:
    """Our names of the variables, and scope and name of theirs."""
    names = {
        "expert_selection_gating/kernel": "router_weights/kernel",
        "expert_selection_gating/bias": "router_weights/bias",
        "wi/kernel": "experts/intermediate/kernel",
        "wi/bias": "experts/intermediate/bias",
        "wo/kernel": "experts/output/kernel",
        "wo/bias": "experts/output/bias",
    }
    if backbone:
        for ours, theirs in (("wi", "intermediate"), ("wo", "output")):
            for what in ("kernel", "bias"):
                names[f"shared/{ours}/{what}"] = f"backbone/{theirs}/{what}"
    return names


def build(examples_per_group, training, activation, backbone=False, **factors):
    """(layer, its router)."""
    act = ACTIVATIONS[activation]
    router = moe.ExpertsChooseMaskedRouter(EXPERTS, router_z_loss_weight=Z_WEIGHT)
    experts = moe.FeedForwardExperts(EXPERTS, HIDDEN, activation=act)
    layer = moe.MoeLayer(experts, router, examples_per_group=examples_per_group, **factors)
    if backbone:
        layer = moe.MoeLayerWithBackbone(layer, BACKBONE, activation=act)
    return layer, router


def record(case: str, settings: dict) -> dict:
    """All arrays of one case."""
    inputs = recorded.normal(f"model garden {case}", [BATCH, LENGTH, DEPTH])
    layer, router = build(**settings)
    layer(inputs, training=False)
    variables = {}
    for ours, theirs in names_of(settings.get("backbone", False)).items():
        found = [v for v in layer.trainable_variables if v.name.endswith(f"{theirs}:0")]
        assert len(found) == 1, (theirs, [v.name for v in layer.trainable_variables])
        variables[ours] = found[0]
        found[0].assign(recorded.normal(ours + case, found[0].shape, 0.5))
    assert len(variables) == len(layer.trainable_variables)
    for metric in layer.metrics:
        metric.reset_state()

    x = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=settings["training"])
        direction = seeded.direction_of(outputs.shape)
        objective = tf.reduce_sum(outputs * direction) + tf.add_n(layer.losses)
    gradients = tape.gradient(objective, [*variables.values(), x])

    arrays = {"inputs": inputs, "outputs": outputs.numpy(), "loss": tf.add_n(layer.losses).numpy()}
    # Their biases of experts have a dimension of 1 for the slots.
    arrays.update({f"weights/{name}": v.numpy().squeeze() for name, v in variables.items()})
    arrays.update(
        {
            f"gradients/{name}": tf.convert_to_tensor(g).numpy().squeeze()
            for name, g in zip([*variables, "inputs"], gradients)
        }
    )
    arrays.update({f"metrics/{m.name}": m.result().numpy() for m in layer.metrics})
    arrays["combine"] = combine_weights(router, x, settings)
    return arrays


def combine_weights(router, x, settings):
    """[groups, tokens, experts] of the router alone: the weight of each expert's output."""
    tokens = int(LENGTH * settings["examples_per_group"])
    which = "train" if settings["training"] else "eval"
    capacity = round(settings[f"{which}_capacity_factor"] * tokens / EXPERTS)
    mask = router(
        tf.reshape(x, [-1, tokens, DEPTH]), expert_capacity=capacity, training=settings["training"]
    )
    return tf.reduce_sum(mask.combine_array, axis=-1).numpy()


if __name__ == "__main__":
    packages = ("tf-models-official", "tf_keras", "tensorflow")
    recorded.save(
        "model_garden",
        {name: version(name) for name in packages},
        {case: record(case, settings) for case, settings in CASES.items()},
    )
