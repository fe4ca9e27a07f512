"""Random and hand-picked cases of `hmoe.plan.layer_case`, and the layers that they describe."""

from __future__ import annotations

import math

from hypothesis import assume
from hypothesis import strategies as st

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.layer import parts
from hmoe.plan.layer_case import (
    ACTIVATIONS,
    EXPERT_CHOICE,
    POOLS,
    ROUTERS,
    SWITCH,
    TOP_K,
    UNIFORM,
    FeedForwardCase,
    LayerCase,
    LevelCase,
    RouterCase,
)
from hmoe.plan.layer_sizes import level_sizes
from tests.plan import lowered


def layer_of(case: LayerCase) -> hmoe.HierarchicalMoE:
    """Returns the layer that a case describes."""
    shared = case.shared_expert
    return hmoe.HierarchicalMoE(
        levels=[_level(each) for each in case.levels],
        experts=hmoe.FeedForwardExperts(
            **_feed_forward(case.experts),
            output_names=[f"wo_{number}" for number in range(case.experts.num_outputs)],
        ),
        shared_expert=shared and hmoe.SharedExpert(**_feed_forward(shared)),
        metrics=case.metrics,
        engine=case.engine,
    )


def _level(case: LevelCase) -> hmoe.Level:
    return hmoe.Level(
        name=case.name,
        num_experts=case.num_experts,
        router=_router(case.router),
        group_size=case.group_size,
        examples_per_group=case.examples_per_group,
        capacity_factor_train=case.capacity_factor,
        capacity_factor_eval=case.capacity_factor,
        min_capacity=case.min_capacity,
        balance_loss_coef=case.balance_loss_coef,
        balance_loss_over=case.balance_loss_over,
        balance_loss_mean_over=case.balance_loss_mean_over,
        z_loss_coef=case.z_loss_coef,
        second_place_loss=case.second_place_loss,
    )


def _router(case: RouterCase) -> hmoe.Router:
    gate = hmoe.Gate(
        function=case.gate_function,
        use_bias=case.gate_bias,
        jitter=0.1 if case.jitter else 0.0,
        input_dropout=0.1 if case.input_dropout else 0.0,
        explore_probability=0.1 if case.explores else 0.0,
    )
    if case.kind == EXPERT_CHOICE:
        return hmoe.ExpertChoiceRouter(gate=gate, softmax_over=case.softmax_over)
    if case.kind == UNIFORM:
        return hmoe.UniformRouter(gate=gate, k=case.k, weight_norm=case.weight_norm)
    more = {
        "gate": gate,
        "retries": case.retries,
        "priority": case.priority,
        "bias_update_rate": 0.1 if case.moves_bias else None,
    }
    if case.kind == SWITCH:
        return hmoe.SwitchRouter(**more)
    return hmoe.TopKRouter(k=case.k, weight_norm=case.weight_norm, **more)


def _feed_forward(case: FeedForwardCase) -> dict[str, object]:
    return {
        "hidden_size": case.hidden_size,
        "activation": list(case.activations),
        "use_bias": case.use_bias,
        "dropout_rate": 0.1 if case.dropout else 0.0,
        "output_dropout_rate": 0.1 if case.output_dropout else 0.0,
    }


def step_of(case: LayerCase) -> lowered.Step:
    """Builds the layer of a case, and its backward pass, in the default graph.

    The gradients are those of sum(outputs) + losses, for the weights and for the inputs.
    """
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    sizes = {
        "outer_batch": case.outer_batch,
        "batch": case.batch * case.num_microbatches,
        "length": case.length,
        "d_model": case.d_model,
    }
    dims = [mtf.Dimension(name, size) for name, size in sizes.items()]
    features = {"inputs": mtf.zeros(mesh, mtf.Shape(dims), _TYPES[case.activation_bytes])}
    if case.has_importance:
        features["importance"] = mtf.ones(mesh, mtf.Shape(dims[:-1]))

    if case.num_microbatches > 1:
        gradients, outputs = mtf.serialize_training_step(
            features, lambda given: _outputs(case, given), dims[1], case.num_microbatches
        )
        return lowered.Step(mesh.graph, [*gradients, *outputs.values()], case.num_microbatches)
    found = _outputs(case, features)
    exported = list(found.values())
    if case.train:
        weights = [each.outputs[0] for each in mesh.graph.trainable_variables]
        exported += [each for each in mtf.gradients([found["loss"]], weights) if each is not None]
    return lowered.Step(mesh.graph, exported)


_TYPES = {4: tf.float32, 2: tf.bfloat16}


def _outputs(case: LayerCase, features: dict[str, mtf.Tensor]) -> dict[str, mtf.Tensor]:
    """Calls the layer; returns its losses and metrics, and the "loss" to be differentiated."""
    inputs, dtype = features["inputs"], _TYPES[case.activation_bytes]
    mesh, graph = inputs.mesh, inputs.graph
    types = mtf.VariableDType(tf.float32, tf.float32, dtype)
    # As if a layer came before.
    inputs += mtf.get_variable(mesh, "before", mtf.Shape(inputs.shape.dims[-1:]), dtype=types)
    # In a T5 inputs and outputs have one dimension.
    output_dim = inputs.shape.dims[-1]
    if case.output_dim != case.d_model:
        output_dim = mtf.Dimension("d_out", case.output_dim)
    with parts.within(graph, lowered.REST):
        result = layer_of(case)(
            inputs,
            output_dim,
            train=case.train,
            importance=features.get("importance"),
            mesh_shape=text_of(case.mesh),
            layout=text_of(case.layout),
            variable_dtype=types,
            num_microbatches=case.num_microbatches,
        )
    outputs = result.outputs if isinstance(result.outputs, list) else [result.outputs]
    sums = [mtf.cast(mtf.reduce_sum(each), tf.float32) for each in outputs]
    loss = mtf.add_n([*sums, result.loss])
    return {"loss": loss, **result.losses, **result.metrics}


def text_of(pairs: object) -> str:
    """Returns axes with their sizes, or dimensions with their axes, as users write them."""
    return ";".join(f"{name}:{value}" for name, value in dict(pairs).items())


@st.composite
def routers(draw: st.DrawFn) -> RouterCase:
    """Draws a router."""
    kind = draw(st.sampled_from([TOP_K, *ROUTERS]))
    chooses = kind in (TOP_K, SWITCH)
    softmax_over = (
        draw(st.sampled_from(["experts", "tokens"])) if kind == EXPERT_CHOICE else "experts"
    )
    functions = ["softmax"] if softmax_over == "tokens" else ["softmax", "sigmoid"]
    moves_bias = chooses and draw(st.booleans())
    return RouterCase(
        kind=kind,
        k=draw(st.integers(1, 3)) if kind in (TOP_K, UNIFORM) else 1,
        weight_norm=draw(st.sampled_from([None, 1.0, 2.0])) if kind in (TOP_K, UNIFORM) else None,
        retries=draw(st.integers(0, 2)) if chooses else 0,
        priority=chooses and draw(st.booleans()),
        moves_bias=moves_bias,
        softmax_over=softmax_over,
        gate_function=draw(st.sampled_from(functions)),
        gate_bias=draw(st.booleans()),
        jitter=draw(st.booleans()),
        input_dropout=draw(st.booleans()),
        explores=chooses and not moves_bias and draw(st.booleans()),
    )


@st.composite
def levels(draw: st.DrawFn, name: str, multiple: int) -> LevelCase:
    """Draws a level whose number of experts is a multiple of something."""
    router = draw(routers())
    pool = draw(st.sampled_from(POOLS)) if router.kind != EXPERT_CHOICE else "group"
    means = ["tokens"] if pool == "example" else ["tokens", "positions"]
    return LevelCase(
        name=name,
        num_experts=multiple * draw(st.integers(1, 3)),
        router=router,
        capacity_factor=draw(st.sampled_from([0.5, 1.0, 1.25, 2.0])),
        group_size=draw(st.integers(3, 12)),
        examples_per_group=draw(st.sampled_from([None, None, 1.5])),
        min_capacity=draw(st.integers(1, 3)),
        balance_loss_coef=draw(st.sampled_from([0.0, 0.01])),
        balance_loss_over=pool,
        balance_loss_mean_over=draw(st.sampled_from(means)),
        z_loss_coef=draw(st.sampled_from([0.0, 0.1])),
        second_place_loss=router.kind in (TOP_K, UNIFORM) and router.k > 1 and draw(st.booleans()),
    )


@st.composite
def feed_forwards(draw: st.DrawFn, multiple: int, max_outputs: int = 1) -> FeedForwardCase:
    """Draws experts whose hidden size is a multiple of something."""
    names = st.lists(st.sampled_from(sorted(ACTIVATIONS)), min_size=1, max_size=2)
    return FeedForwardCase(
        hidden_size=multiple * draw(st.integers(1, 3)),
        activations=tuple(draw(names)),
        num_outputs=draw(st.integers(1, max_outputs)),
        use_bias=draw(st.booleans()),
        dropout=draw(st.booleans()),
        output_dropout=draw(st.booleans()),
    )


@st.composite
def layer_cases(draw: st.DrawFn, max_devices: int = 8, on_tpu: bool = False) -> LayerCase:
    """Draws a layer on a mesh that the layer accepts."""
    number = draw(st.sampled_from([1, 2, 2, 3]))
    names = ["experts"] if number == 1 else ["expert_x", "expert_y", "expert_z"][:number]
    axes = draw(st.permutations(["rows", "cols", "model"]))
    mesh = {axis: draw(st.sampled_from([1, 2, 2, 3])) for axis in axes[: draw(st.integers(0, 3))]}
    assume(math.prod(mesh.values()) <= max_devices)
    # As users write it, or anything.
    usual = {"outer_batch": "rows", "batch": "cols", names[0]: "cols", "expert_hidden": "model"}
    usual |= {"expert_y": "rows", "d_ff": "model"} if number > 1 else {"d_ff": "model"}
    layout = {name: axis for name, axis in usual.items() if draw(st.integers(0, 5))}
    if mesh and draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(sorted(usual)))
        layout[name] = draw(st.sampled_from(sorted(mesh)))
    splits = {name: mesh.get(axis, 1) for name, axis in layout.items()}
    drawn = tuple(
        draw(levels(f"level_{depth}", splits.get(name, 1))) for depth, name in enumerate(names)
    )
    shared, train = draw(st.booleans()), draw(st.sampled_from([True, True, True, False]))
    try:
        case = LayerCase(
            levels=drawn,
            experts=draw(feed_forwards(splits.get("expert_hidden", 1), 1 if shared else 2)),
            shared_expert=draw(feed_forwards(splits.get("d_ff", 1))) if shared else None,
            d_model=draw(st.sampled_from([5, 7])),
            output_dim=draw(st.sampled_from([7, 11])),
            outer_batch=splits.get("outer_batch", 1) * draw(st.integers(1, 2)),
            batch=splits.get("batch", 1) * draw(st.integers(1, 3)),
            length=draw(st.integers(1, 5)),
            mesh=mesh,
            layout=layout,
            engine=draw(st.sampled_from(["index", "einsum"])),
            activation_bytes=draw(st.sampled_from([4, 2])),
            train=train,
            has_importance=draw(st.booleans()),
            metrics=draw(st.sampled_from(["brief", "full", "off"])),
            on_tpu=on_tpu,
            num_microbatches=draw(st.integers(1, 3)) if train else 1,
        )
        level_sizes(case)
    except ValueError:
        assume(False)  # a layer that would not be built either
    return case
