"""Our layer, with the weights and inputs that another system had."""

from __future__ import annotations

from typing import Any

import numpy as np

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.layer import metrics
from tests import graphs, meshes, seeded, tolerances
from tests.peers import recorded
from tests.peers.recorded import Arrays
from tests.routing import contexts
from tests.run_layer import Run, run_layer


def dims_of(inputs: np.ndarray) -> seeded.Dims:
    return tuple(zip(("batch", "length", "d_model"), inputs.shape))


def named(arrays: Arrays, router: hmoe.Router) -> Arrays:
    """Weights or gradients with the gating named as in a one-level layer of the router."""
    return {
        name.replace("gating/", f"{router.variable_name()}/", 1)
        if name.startswith("gating/")
        else name: value
        for name, value in arrays.items()
    }


def run(moe: hmoe.HierarchicalMoE, case: Arrays, **more: Any) -> Run:
    """Our layer on what was recorded, with the same objective."""
    weights = named(recorded.part(case, "weights"), moe.levels[0].router)
    result = run_layer(
        moe,
        case["inputs"],
        dims_of(case["inputs"]),
        output_size=case["outputs"].shape[-1],
        values=lambda name, shape: weights[name],
        **more,
    )
    assert sorted(result.weights) == sorted(weights)
    return result


def summary(result: Run) -> dict[str, float]:
    """Metrics by name, of the only level under "only/"."""
    names = metrics.summarize({"layer": result.sums})
    return {
        name[len("layer/") :]: value for name, value in names.items() if name.startswith("layer/")
    }


def assert_same(result: Run, case: Arrays, router: hmoe.Router) -> None:
    """Outputs and all gradients are those that were recorded."""
    tolerances.assert_close(result.outputs, case["outputs"], tolerances.PEERS, "outputs")
    gradients = named(recorded.part(case, "gradients"), router)
    assert sorted(result.gradients) == sorted(gradients)
    for name, gradient in gradients.items():
        tolerances.assert_close(result.gradients[name], gradient, tolerances.PEERS, name)
        assert np.abs(gradient).max() > 1e-3


def expert_weights(
    router: hmoe.Router,
    tokens: np.ndarray,
    kernels: Arrays,
    num_experts: int,
    capacity: int,
    train: bool = True,
) -> np.ndarray:
    """[groups, tokens, experts]: the weight of each expert's output, from the router alone.

    Args:
      router: ours.
      tokens: [groups, tokens, depth].
      kernels: its variables, by their names below that of the gating.
      num_experts: X.
      capacity: slots of each expert for a group.
      train: whether this is training.
    """
    with tf.Graph().as_default():
        graph = mtf.Graph()
        dims = graphs.mtf_dims(tuple(zip(("groups", "tokens", "d_model"), tokens.shape)))
        inputs = graphs.constant(mtf.Mesh(graph, "mesh"), tokens, dims)
        context = contexts.context_for(
            mtf.Dimension("experts", num_experts),
            capacity,
            train=train,
            has_partial_tokens=False,
        )
        scores = router.score(inputs, None, context)
        importance = graphs.constant(inputs.mesh, np.ones(tokens.shape[:2], np.float32), dims[:2])
        assignment = router.assign(scores, importance, context)
        went = mtf.one_hot(assignment.expert, scores.experts_dim, dtype=tf.float32)
        weights = mtf.einsum([went, assignment.weight], dims[:2] + [scores.experts_dim])
        lowering = meshes.lower(inputs.mesh)
        fetched = lowering.export_to_tf_tensor(weights)
        with graphs.quick_session() as session:
            session.run(tf.global_variables_initializer())
            graphs.load_weights(
                session, lowering, lambda name, shape: kernels[name[len("gating/") :]]
            )
            return session.run(fetched)
