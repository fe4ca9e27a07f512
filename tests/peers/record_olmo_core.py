"""Records what OLMo-core's router computes, in olmo_core.npz.

To run it, make an environment of its own with the packages of torch.txt and, without what it asks
for (`--no-deps`), that of olmo_core.txt; PyTorch's build for processors will do. Then, from the
repository's root:

    python -m tests.peers.record_olmo_core

The router stands alone: it has no capacity, and OLMo-core's experts need a GPU. So the script
applies experts of its own, two matrices and a ReLU, with the router's choices and weights.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch
from olmo_core.nn.moe.router import MoELinearRouter, MoERouterGatingFunction

from tests import seeded
from tests.peers import recorded

BATCH, LENGTH, DEPTH, HIDDEN, OUT, EXPERTS = 3, 8, 7, 4, 6, 5
BALANCE_WEIGHT, Z_WEIGHT = 0.5, 0.3
GAMMA, STEPS, MICROBATCHES = 0.03, 5, 2

CASES = {
    "softmax_1_batch": dict(top_k=1, granularity="local_batch"),
    "softmax_1_sum_batch": dict(top_k=1, norm=1.0, granularity="local_batch"),
    "softmax_2_sum_example": dict(top_k=2, norm=1.0, granularity="instance"),
    "softmax_3_euclid_batch": dict(top_k=3, norm=2.0, granularity="local_batch"),
    "sigmoid_1_example": dict(function="sigmoid", top_k=1, granularity="instance"),
    "sigmoid_2_plain_example": dict(function="sigmoid", top_k=2, granularity="instance"),
    "sigmoid_2_sum_batch_biased": dict(
        function="sigmoid", top_k=2, norm=1.0, granularity="local_batch", biased=True
    ),
    "softmax_3_cubic_example_biased": dict(top_k=3, norm=3.0, granularity="instance", biased=True),
    "uniform_1_batch": dict(function="sigmoid", top_k=1, granularity="local_batch", uniform=True),
    "uniform_3_sum_example": dict(top_k=3, norm=1.0, granularity="instance", uniform=True),
}


def build(
    top_k, granularity="local_batch", function="softmax", norm=None, uniform=False, biased=False
):
    """A router that trains."""
    return MoELinearRouter(
        d_model=DEPTH,
        num_experts=EXPERTS,
        top_k=top_k,
        normalize_expert_weights=norm,
        uniform_expert_assignment=uniform,
        bias_gamma=GAMMA if biased else None,
        gating_function=MoERouterGatingFunction(function),
        lb_loss_weight=BALANCE_WEIGHT,
        lb_loss_granularity=granularity,
        z_loss_weight=Z_WEIGHT,
    ).train()


def with_kernel(router, kernel):
    """The router with our kernel [M, X], which they keep as [X * M]."""
    router.weight.data = torch.tensor(kernel.T.reshape(-1).copy())
    return router


def record(case, settings):
    """All arrays of one case."""
    arrays = {
        "inputs": recorded.normal(f"olmo {case}", [BATCH, LENGTH, DEPTH]),
        "weights/gating/kernel": recorded.normal(f"gating {case}", [DEPTH, EXPERTS], 0.5),
        "weights/wi/kernel": recorded.normal(f"wi {case}", [EXPERTS, DEPTH, HIDDEN], 0.4),
        "weights/wo/kernel": recorded.normal(f"wo {case}", [EXPERTS, HIDDEN, OUT], 0.4),
    }
    router = with_kernel(build(**settings), arrays["weights/gating/kernel"])
    if router.score_bias is not None:
        bias = recorded.normal(f"bias {case}", [EXPERTS], 0.2)
        router.score_bias.copy_(torch.tensor(bias))
        arrays["weights/gating/balance_bias"] = bias
    x, wi, wo = (
        torch.tensor(arrays[name], requires_grad=True)
        for name in ("inputs", "weights/wi/kernel", "weights/wo/kernel")
    )

    weights, experts, load, loss = router(x)
    hidden = torch.relu(torch.einsum("bsm,bskmf->bskf", x, wi[experts]))
    outputs = torch.einsum("bskf,bskfn,bsk->bsn", hidden, wo[experts], weights)
    direction = seeded.direction_of(outputs.shape)
    (torch.sum(outputs * torch.tensor(direction)) + loss).backward()

    gating = router.weight.grad.reshape(EXPERTS, DEPTH).T
    for name, gradient in (
        ("gating/kernel", gating),
        ("wi/kernel", wi.grad),
        ("wo/kernel", wo.grad),
        ("inputs", x.grad),
    ):
        arrays[f"gradients/{name}"] = gradient.numpy()
    arrays.update(
        outputs=outputs.detach().numpy(),
        expert_weights=weights.detach().numpy(),
        expert_indices=experts.numpy().astype(np.int8),
        loss=loss.detach().numpy(),
        load=load.numpy(),
    )
    for name, (value, _) in router.compute_metrics().items():
        arrays[f"metrics/{name}"] = value.numpy()
    return arrays


def record_balancing():
    """Five steps of bias balancing, each over two microbatches, with frozen weights."""
    arrays = {
        "inputs": recorded.normal("olmo balancing", [STEPS, MICROBATCHES, BATCH, LENGTH, DEPTH])
        + np.float32(0.3),
        "weights/gating/kernel": recorded.normal("gating balancing", [DEPTH, EXPERTS], 0.5),
    }
    router = with_kernel(
        build(2, function="sigmoid", norm=1.0, biased=True), arrays["weights/gating/kernel"]
    )
    loads, biases, imbalances = [], [], []
    for step in arrays["inputs"]:
        router.reset_metrics()
        loads.append(sum(router(torch.tensor(microbatch))[2].numpy() for microbatch in step))
        imbalances.append(router.compute_metrics()["load imbalance"][0].numpy())
        router.post_batch()
        biases.append(router.score_bias.numpy().copy())
    arrays.update(
        load=np.array(loads), score_bias=np.array(biases), load_imbalance=np.array(imbalances)
    )
    return arrays


if __name__ == "__main__":
    cases = {case: record(case, settings) for case, settings in CASES.items()}
    cases["balancing"] = record_balancing()
    recorded.save("olmo_core", {name: version(name) for name in ("ai2-olmo-core", "torch")}, cases)
