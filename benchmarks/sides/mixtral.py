"""The Mixtral block of `transformers` on PyTorch."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version

import numpy as np
import torch
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from benchmarks.sides import seeded
from benchmarks.sizes import PEAK_SIZE, Size

TOP_K = 2


class Mixtral:
    """Gated experts, so three matrices each, and no capacity: every choice has a slot.

    Args:
      implementation: of the experts, as `transformers` calls it.
      **size: of the layer.
    """

    def __init__(self, implementation: str, **size):
        self.size = size = Size(**size)
        config = MixtralConfig(
            hidden_size=size.d_model,
            intermediate_size=size.hidden,
            hidden_act="silu",
            num_local_experts=size.num_experts,
            num_experts_per_tok=TOP_K,
            experts_implementation=implementation,
        )
        self._block = MixtralSparseMoeBlock(config).train()
        for name, parameter in self._block.named_parameters():
            # They keep [..., out, in].
            shape = [*parameter.shape[:-2], parameter.shape[-1], parameter.shape[-2]]
            value = np.swapaxes(seeded.weights(name, shape), -1, -2)
            parameter.data = torch.tensor(np.ascontiguousarray(value))
        shape = [size.batch, size.length, size.d_model]
        self._inputs = torch.tensor(seeded.normal("inputs", shape), requires_grad=True)
        self._direction = torch.tensor(seeded.normal("direction", shape))
        self._square = torch.tensor(seeded.normal("square", [PEAK_SIZE, PEAK_SIZE]))

    def _run(self):
        outputs = self._block(self._inputs)
        torch.sum(outputs * self._direction).backward()
        return outputs

    def step(self) -> float:
        self._block.zero_grad(set_to_none=True)
        self._inputs.grad = None
        started = time.perf_counter()
        self._run()
        return time.perf_counter() - started

    def peak(self) -> float:
        started = time.perf_counter()
        torch.matmul(self._square, self._square)
        return 2 * PEAK_SIZE**3 / (time.perf_counter() - started)

    def compare(self, path):
        self._block.zero_grad(set_to_none=True)
        self._inputs.grad = None
        outputs = self._run()
        gradients = {name: p.grad.numpy() for name, p in self._block.named_parameters()}
        np.savez(
            path,
            outputs=outputs.detach().numpy(),
            **{f"gradients/{name}": g for name, g in gradients.items()},
            **{"gradients/inputs": self._inputs.grad.numpy()},
        )

    def describe(self):
        size, slots = self.size, self.size.tokens * TOP_K
        return {
            "library": "PyTorch",
            "dtype": "float32",
            "tokens": size.tokens,
            "slots": slots,
            "matrices": 3,
            "flops": size.flops(3, slots),
            "packages": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": version("transformers"),
                "threads": str(torch.get_num_threads()),
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "default"),
            },
        }
