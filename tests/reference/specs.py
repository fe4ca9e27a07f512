"""What the oracle needs to know: places of tokens, and levels in training or evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

Family = tuple[int, ...]

# Random numbers of one group by what they are for, each with a row for every token.
Numbers = Callable[[str], np.ndarray]


@dataclasses.dataclass
class Place:
    """What stands in a place: a token on its way, or nothing.

    Attributes:
      example: the row of the batch that it came from.
      origin: its stream and place at the first level.
    """

    vector: np.ndarray
    embedding: np.ndarray
    importance: float = 0.0
    example: Any = None
    origin: tuple[int, int] | None = None


@dataclasses.dataclass
class GateSpec:
    """How tokens are scored; what acts in training alone is off in evaluation."""

    function: str = "softmax"
    jitter: float = 0.0
    input_dropout: float = 0.0
    word_embeddings: str | None = None
    explore_probability: float = 0.0
    explore_temperature: float | None = None


@dataclasses.dataclass
class LevelSpec:
    """One level.

    Attributes:
      router: "top_k", "switch", "uniform" or "expert_choice".
      selection: of the switch router, "argmax" or "sample".
      softmax_over: of expert choice, "experts" or "tokens".
      examples_per_group: instead of the group size.
    """

    name: str
    num_experts: int
    k: int
    policy: str
    threshold: float
    group_size: int
    capacity_factor: float
    min_capacity: int
    weight_norm: float | None = 1.0
    balance_coef: float = 0.01
    z_coef: float = 0.0
    second_place: bool = False
    router: str = "top_k"
    gate: GateSpec = dataclasses.field(default_factory=GateSpec)
    priority: bool = False
    retries: int = 0
    selection: str = "argmax"
    temperature: float = 1.0
    softmax_over: str = "experts"
    balance_over: str = "group"
    balance_mean_over: str = "tokens"
    balance_choices: str = "first"
    examples_per_group: float | None = None

    @property
    def num_choices(self) -> int:
        """The choices of a full token."""
        return min(self.k, self.num_experts)

    @property
    def normalised(self) -> bool:
        """Whether weights are divided by a norm of the chosen probabilities."""
        return self.num_choices > 1 and self.weight_norm is not None
