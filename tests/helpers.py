"""Builds a layer on a simulated mesh, with weights by name, and runs it."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hmoe import compat

compat.behave_like_v1()

import hmoe  # noqa: E402
from hmoe.compat.stack import mtf, tf  # noqa: E402
from hmoe.routing import balancing  # noqa: E402
from tests import meshes, reference  # noqa: E402

Dims = Sequence[tuple[str, int]]

# Adafactor's first steps move each weight by about the learning rate, whatever its
# gradient. Where that is 0 but for rounding (the weight of a partial token's only
# choice is 1), rounding would decide where to: the square of gradients is damped.
LEARNING_RATE = 2e-3
DAMPING = 1e-5

TWO_AXES = "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows"


def seeded(name: str) -> np.random.RandomState:
    """A generator that depends on a name alone."""
    return np.random.RandomState(zlib.crc32(name.encode()) % 2**31)


def weights_of(name: str, shape: Sequence[int], salt: str = "") -> np.ndarray:
    """float32 weights by the name of their variable; gating is sharper than a fresh one."""
    scale = 0.7 if "gating" in name else 0.4
    if name.endswith("balance_bias"):
        scale = 0.1
    return (seeded(f"{name}{salt}").randn(*shape) * scale).astype(np.float32)


def tokens_of(dims: Dims, salt: str = "") -> np.ndarray:
    """float32 inputs."""
    return seeded(f"inputs{salt}").randn(*[size for _, size in dims]).astype(np.float32)


def clear_tokens(
    dims: Dims, kernels: Sequence[np.ndarray], k: int = 2, margin: float = 2e-3
) -> np.ndarray:
    """Inputs whose choices at every level stay the same when numbers move a little.

    Args:
      dims: names and sizes of all dimensions of the inputs.
      kernels: of the gatings, from the outermost level; each [*outer, M, X].
      k: choices at each level.
      margin: smallest difference between probabilities next to one another in rank.
    """
    generator = seeded(f"clear {dims}")
    kept: list[np.ndarray] = []
    while len(kept) < np.prod([size for _, size in dims[:-1]]):
        token = generator.randn(dims[-1][1])
        if all(_least_gap(token, kernel, k) > margin for kernel in kernels):
            kept.append(token)
    return np.array(kept, np.float32).reshape([size for _, size in dims])


def _least_gap(token: np.ndarray, kernel: np.ndarray, k: int) -> float:
    logits = np.einsum("m,...mx->...x", token, kernel.astype(np.float64))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    best = -np.sort(-probabilities, axis=-1)[..., : k + 1]
    return float((best[..., :-1] - best[..., 1:]).min())


def importance_of(dims: Dims, partial: bool = True, padding: bool = True) -> np.ndarray:
    """float32 importance of the leading dimensions: about a tenth partial, a tenth padding."""
    shape = [size for _, size in dims[:-1]]
    draw = seeded(f"importance{shape}").rand(*shape)
    values = np.ones(shape, np.float32)
    if partial:
        values[draw < 0.12] = 0.5
    if padding:
        values[draw > 0.85] = 0.0
    return values


@dataclasses.dataclass
class Run:
    """What came out of a session; `steps` has the weights after each optimizer step."""

    outputs: np.ndarray
    losses: dict[str, np.ndarray]
    loss: float
    sums: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    counters: list[tuple[str, float]]
    graph: Any
    after: dict[str, np.ndarray]
    slices: dict[str, tuple[int, ...]]


def quick_session() -> Any:
    """A session that starts sooner: optimizing a graph takes longer than running it once."""
    config = tf.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    config.graph_options.optimizer_options.opt_level = -1
    return tf.Session(config=config)


def read_variables_once() -> None:
    """Makes a step use the weights that it started from.

    Otherwise each use of a variable reads it anew, and a backward pass can meet weights
    that the optimizer has already updated.
    """
    tf.get_variable_scope().set_caching_device(lambda op: op.device)


def mtf_dims(dims: Dims) -> list[Any]:
    return [mtf.Dimension(name, size) for name, size in dims]


def constant(mesh: Any, value: np.ndarray, dims: Sequence[Any]) -> Any:
    """An mtf tensor of any layout with these values."""
    return mtf.import_tf_tensor(mesh, tf.constant(value), mtf.Shape(list(dims)))


def model_variables(graph: Any) -> list[Any]:
    """What is trained or balanced; not what an optimizer keeps."""
    return [
        v
        for v in graph.all_variables
        if v in graph.trainable_variables or v.name.endswith("balance_bias")
    ]


def load_weights(session: Any, lowering: Any, values: Callable = weights_of) -> None:
    """Gives every variable of the model its values by name, on all devices.

    Lowering for several devices stacks variables of one shape; each keeps its own master.
    """
    for variable in model_variables(lowering.graph):
        for master in getattr(variable, "_masters", None) or [variable.get_master()]:
            value = values(master.op.name, master.shape.as_list())
            master.load(value.astype(master.dtype.as_numpy_dtype), session)
    session.run(lowering.copy_masters_to_slices())


def run_layer(layer: Callable, x: np.ndarray, dims: Dims, **how: Any) -> Run:
    """`run_layer_each` for one array of inputs."""
    return run_layer_each(layer, [x], dims, **how)[0]


def run_layer_each(
    layer: Callable,
    inputs: Sequence[np.ndarray],
    dims: Dims,
    *,
    importance: np.ndarray | None = None,
    embeddings: np.ndarray | None = None,
    output_size: int = 13,
    train: bool = True,
    mesh_shape: str = "",
    layout: str = "",
    gradients: bool = True,
    dtype: Any = None,
    steps: int = 0,
    global_step: int = 0,
    values: Callable = weights_of,
    **call: Any,
) -> list[Run]:
    """Builds one layer and runs it for each of the inputs.

    The objective is sum(outputs * fixed numbers) + losses.

    Args:
      layer: called like an `hmoe.HierarchicalMoE`; or any function of the same
        arguments that returns something with outputs, loss, losses and metrics.
      inputs: several arrays, one after another; steps of an optimizer follow the last.
      dims: names and sizes of all dimensions of the inputs.
      importance: by token.
      embeddings: of the words of the tokens, as the inputs.
      output_size: size of the output dimension.
      train: handed on.
      mesh_shape: of a simulated mesh.
      layout: rules.
      gradients: whether to compute those of all variables and of the inputs.
      dtype: of activations.
      steps: of Adafactor.
      global_step: at which random numbers are drawn.
      values: the weights, by name and shape.
      **call: further arguments of the layer.
    """
    dtype = dtype or tf.float32
    with tf.Graph().as_default():
        read_variables_once()
        step = tf.train.create_global_step()
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        all_dims = mtf_dims(dims)
        fed = tf.placeholder_with_default(inputs[0], inputs[0].shape)
        tokens = mtf.cast(mtf.import_tf_tensor(mesh, fed, mtf.Shape(all_dims)), dtype)
        if importance is not None:
            call["importance"] = constant(mesh, importance, all_dims[: importance.ndim])
        given = {"inputs": tokens}
        if embeddings is not None:
            given["embeddings"] = mtf.cast(constant(mesh, embeddings, all_dims), dtype)
            call["embeddings"] = given["embeddings"]
        output_dim = mtf.Dimension("d_out", output_size)
        if "variable_dtype" not in call:
            call["variable_dtype"] = mtf.VariableDType(tf.float32, tf.float32, dtype)
        result = layer(
            tokens, output_dim, train=train, mesh_shape=mesh_shape, layout=layout, **call
        )
        outputs = _one_output(result.outputs)
        direction = seeded("direction").randn(*[d.size for d in outputs.shape.dims])
        objective = (
            mtf.reduce_sum(
                outputs * constant(mesh, direction.astype(np.float32), outputs.shape.dims)
            )
            + result.loss
        )
        wanted = {
            "variables": {v.name: v.outputs[0] for v in model_variables(graph)},
            "outputs": outputs,
            "losses": dict(result.losses),
            "loss": result.loss,
            "sums": dict(result.metrics),
            "gradients": {},
        }
        grads = []
        if gradients or steps:
            of = dict({v.name: v.outputs[0] for v in graph.trainable_variables}, **given)
            grads = mtf.gradients([objective], list(of.values()))
            wanted["gradients"] = {
                name: mtf.cast(g, tf.float32) for name, g in zip(of, grads) if g is not None
            }
        updates = []
        if steps:
            optimizer = mtf.optimize.AdafactorOptimizer(
                learning_rate=LEARNING_RATE, epsilon1=DAMPING, multiply_by_parameter_scale=False
            )
            updates = optimizer.apply_grads(
                grads[: len(graph.trainable_variables)], graph.trainable_variables
            )
            if getattr(result, "bias_updates", None):
                updates += balancing.apply_all(result.bias_updates, result.metrics)
        engine = meshes.implementation(mesh_shape, layout)
        slices = {v.name: tuple(engine.slice_shape(v.shape)) for v in model_variables(graph)}
        lowering = meshes.lower(mesh, mesh_shape, layout)
        counters = list(lowering.counters)
        fetched = tf.nest.map_structure(lowering.export_to_tf_tensor, wanted)
        update = tf.group([lowering.lowered_operation(op) for op in updates])
        with quick_session() as session:
            session.run(tf.global_variables_initializer())
            load_weights(session, lowering, values)
            step.load(global_step, session)
            got = [session.run(fetched, {fed: x}) for x in inputs]
            for number in range(steps):
                session.run(update)
                step.load(global_step + number + 1, session)
            after = session.run(fetched["variables"]) if steps else {}
    return [
        Run(
            each["outputs"],
            each["losses"],
            float(each["loss"]),
            each["sums"],
            each["gradients"],
            each["variables"],
            counters,
            graph,
            after,
            slices,
        )
        for each in got
    ]


def _one_output(outputs: Any) -> Any:
    """float32; several outputs side by side."""
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    outputs = [mtf.cast(each, tf.float32) for each in outputs]
    return outputs[0] if len(outputs) == 1 else mtf.concat(outputs, outputs[0].shape.dims[-1].name)


def spec_of(level: hmoe.Level, depth: int, train: bool) -> reference.LevelSpec:
    """The oracle's view of a level."""
    factors = {True: (1.25, 1.0, 1.0), False: (2.0, 1.0, 1.0)}[train]
    asked = level.capacity_factor_train if train else level.capacity_factor_eval
    return reference.LevelSpec(
        name=level.name,
        num_experts=level.num_experts,
        group_size=level.group_size,
        capacity_factor=factors[depth] if asked is None else asked,
        min_capacity=level.min_capacity,
        balance_coef=level.balance_loss_coef,
        z_coef=level.z_loss_coef,
        second_place=level.second_place_loss,
        balance_over=level.balance_loss_over,
        balance_mean_over=level.balance_loss_mean_over,
        balance_choices=level.balance_loss_choices,
        examples_per_group=level.examples_per_group,
        gate=_gate_spec(getattr(level.router, "gate", None), train),
        **_router_spec(level.router, train),
    )


def _gate_spec(gate: Any, train: bool) -> reference.GateSpec:
    if gate is None:
        return reference.GateSpec()
    spec = reference.GateSpec(function=gate.function, word_embeddings=gate.word_embeddings)
    if train:
        spec = dataclasses.replace(
            spec,
            jitter=gate.jitter,
            input_dropout=gate.input_dropout,
            explore_probability=gate.explore_probability,
            explore_temperature=gate.explore_temperature,
        )
    return spec


def _router_spec(router: Any, train: bool) -> dict[str, Any]:
    """The fields of a `LevelSpec` that come from the router."""
    mode = "train" if train else "eval"
    always = dict(k=1, policy="all", threshold=1.0, weight_norm=None)
    if isinstance(router, hmoe.TopKRouter):
        return dict(
            k=router.k,
            policy=getattr(router, f"policy_{mode}"),
            threshold=getattr(router, f"threshold_{mode}"),
            weight_norm=router.weight_norm,
            priority=getattr(router, "priority", False),
            retries=getattr(router, "retries", 0),
        )
    if isinstance(router, hmoe.SwitchRouter):
        return dict(
            always,
            router="switch",
            selection=getattr(router, f"selection_{mode}"),
            temperature=router.temperature,
            priority=router.priority,
            retries=router.retries,
        )
    if isinstance(router, hmoe.UniformRouter):
        return dict(always, router="uniform", k=router.k, weight_norm=router.weight_norm)
    return dict(always, router="expert_choice", softmax_over=router.softmax_over)


def reference_of(
    moe: hmoe.HierarchicalMoE, weights: dict[str, np.ndarray], train: bool = True, **more: Any
) -> reference.Reference:
    """The oracle of a layer with the same weights."""
    specs = [spec_of(level, depth, train) for depth, level in enumerate(moe.levels)]
    shared = moe.shared_expert.activations if moe.shared_expert else None
    return reference.Reference(
        specs,
        weights,
        moe.experts.activations,
        shared_activations=shared,
        outputs=moe.experts.output_names,
        **more,
    )


def as_streams(
    values: np.ndarray, has_outer_batch: bool, depth: bool, inserted: int = 1
) -> np.ndarray:
    """[(A), B, ..., (M)] -> [A, tokens, (M)], as the first level sees them.

    An outer batch that is inserted is the minor part of the batch: of six examples
    in two outer batches, the first holds the examples 0, 2, 4.
    """
    if not has_outer_batch:
        batch = values.shape[0]
        values = values.reshape((batch // inserted, inserted) + values.shape[1:])
        values = np.swapaxes(values, 0, 1)
    tail = values.shape[-1:] if depth else ()
    return values.reshape((values.shape[0], -1) + tail)


def from_streams(
    outputs: np.ndarray, shape: Sequence[int], has_outer_batch: bool, inserted: int = 1
) -> np.ndarray:
    """[A, tokens, N] -> [*shape, N], the inverse of `as_streams`."""
    if has_outer_batch:
        return outputs.reshape(tuple(shape) + outputs.shape[-1:])
    split = (inserted, shape[0] // inserted) + tuple(shape[1:]) + outputs.shape[-1:]
    return np.swapaxes(outputs.reshape(split), 0, 1).reshape(tuple(shape) + outputs.shape[-1:])


def compare_gradients(
    run: Run,
    objective: Callable[[dict[str, np.ndarray]], float],
    inputs: dict[str, np.ndarray],
    step: float,
    tolerance: dict[str, float],
    coordinates: int = 3,
) -> None:
    """Compares gradients with central differences of the oracle's objective.

    In each tensor the coordinates of largest gradient are tried, and some at random.
    """
    tensors = dict(run.weights, **inputs)
    for name, gradient in run.gradients.items():
        flat = np.argsort(-np.abs(gradient).ravel())[:1].tolist()
        flat += (
            seeded(f"coordinates {name}")
            .choice(gradient.size, coordinates - 1, replace=False)
            .tolist()
        )
        for number in flat:
            where = np.unravel_index(number, gradient.shape)
            sides = []
            for sign in (1, -1):
                moved = {k: np.array(v, np.float64) for k, v in tensors.items()}
                moved[name][where] += sign * step
                sides.append(objective(moved))
            expected = (sides[0] - sides[1]) / (2 * step)
            np.testing.assert_allclose(
                gradient[where], expected, err_msg=f"{name}{where}", **tolerance
            )
