"""The call and the level that a router works for."""

from __future__ import annotations

import dataclasses

from hmoe.compat.stack import mtf
from hmoe.mesh.randomness import RandomSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoutingContext:
    """The call and the level that a router works for.

    Attributes:
      level: name of the level, for messages.
      train: whether the layer is training.
      has_partial_tokens: whether importance can lie between 0 and 1.
      experts_dim: X, the experts to choose from, by the name that no layout rule splits.
      outer_expert_dims: the experts of the levels above, outermost first.
      capacity_dim: C, the slots of each expert for one group.
      variable_dtype: types of the variables.
      variable_scope: name of the scope of the gate's variables.
      random: source of random numbers that do not depend on the layout.
      kept_experts: float32 [outer experts ..., X], 1 for experts that may be chosen, else 0; None:
        all of them.
      replayed: float32 [..., S, k], recorded choices to take in place of the router's own, best
        first: expert + 1, negative for a choice that the policy did not use, 0 for none. None: the
        router chooses.
    """

    level: str
    train: bool
    has_partial_tokens: bool
    experts_dim: mtf.Dimension
    outer_expert_dims: list[mtf.Dimension]
    capacity_dim: mtf.Dimension
    variable_dtype: mtf.VariableDType
    variable_scope: str
    random: RandomSource
    kept_experts: mtf.Tensor | None = None
    replayed: mtf.Tensor | None = None
