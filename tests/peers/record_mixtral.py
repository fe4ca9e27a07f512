"""Records what a Mixtral block of `transformers` computes, in mixtral.npz.

To run it, make an environment of its own with the packages of torch.txt; PyTorch's build for
processors will do. Then, from the repository's root:

    python -m tests.peers.record_mixtral

The block has no capacity: every expert takes all tokens that chose it.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import (
    MixtralSparseMoeBlock,
    load_balancing_loss_func,
)

from tests import seeded
from tests.peers import recorded

BATCH, LENGTH, DEPTH, HIDDEN = 3, 8, 7, 11
BALANCE_WEIGHT = 0.5

# Name: (experts, experts per token).
CASES = {"two_of_five": (5, 2), "three_of_four": (4, 3)}


def record(case, num_experts, top_k):
    """All arrays of one case."""
    config = MixtralConfig(
        hidden_size=DEPTH,
        intermediate_size=HIDDEN,
        num_local_experts=num_experts,
        num_experts_per_tok=top_k,
        hidden_act="silu",
        experts_implementation="eager",
    )
    assert config._experts_implementation == "eager"
    block = MixtralSparseMoeBlock(config).train()
    weights = {
        "gating/kernel": recorded.normal(f"gating {case}", [DEPTH, num_experts], 0.5),
        "wi_0/kernel": recorded.normal(f"wi_0 {case}", [num_experts, DEPTH, HIDDEN], 0.5),
        "wi_1/kernel": recorded.normal(f"wi_1 {case}", [num_experts, DEPTH, HIDDEN], 0.5),
        "wo/kernel": recorded.normal(f"wo {case}", [num_experts, HIDDEN, DEPTH], 0.5),
    }
    # They keep [experts, out, in], and both input projections in one.
    both = np.concatenate([weights["wi_0/kernel"], weights["wi_1/kernel"]], axis=2)
    parameters = {
        "gate.weight": weights["gating/kernel"].T,
        "experts.gate_up_proj": both.transpose(0, 2, 1),
        "experts.down_proj": weights["wo/kernel"].transpose(0, 2, 1),
    }
    block.load_state_dict({name: torch.tensor(value.copy()) for name, value in parameters.items()})

    inputs = recorded.normal(f"mixtral {case}", [BATCH, LENGTH, DEPTH])
    padding = seeded.generator(f"padding {case}").rand(BATCH, LENGTH) > 0.8
    x = torch.tensor(inputs, requires_grad=True)
    logits, top_weights, top_experts = block.gate(x)
    loss = load_balancing_loss_func((logits,), num_experts, top_k)
    masked = load_balancing_loss_func((logits,), num_experts, top_k, torch.tensor(~padding))
    outputs = block(x)
    direction = seeded.direction_of(outputs.shape)
    (torch.sum(outputs * torch.tensor(direction)) + BALANCE_WEIGHT * loss).backward()

    gradients = {name: p.grad.numpy() for name, p in block.named_parameters()}
    of_both = gradients["experts.gate_up_proj"].transpose(0, 2, 1)
    arrays = {
        "inputs": inputs,
        "outputs": outputs.detach().numpy(),
        "loss": loss.detach().numpy(),
        "padding": padding,
        "masked_loss": masked.detach().numpy(),
        "expert_weights": top_weights.detach().numpy(),
        "expert_indices": top_experts.numpy().astype(np.int8),
        "gradients/gating/kernel": gradients["gate.weight"].T,
        "gradients/wi_0/kernel": of_both[..., :HIDDEN],
        "gradients/wi_1/kernel": of_both[..., HIDDEN:],
        "gradients/wo/kernel": gradients["experts.down_proj"].transpose(0, 2, 1),
        "gradients/inputs": x.grad.numpy(),
    }
    arrays.update({f"weights/{name}": value for name, value in weights.items()})
    return arrays


if __name__ == "__main__":
    recorded.save(
        "mixtral",
        {name: version(name) for name in ("transformers", "torch")},
        {case: record(case, *settings) for case, settings in CASES.items()},
    )
