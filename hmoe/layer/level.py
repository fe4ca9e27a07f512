"""The configuration of one level of the hierarchy."""

from __future__ import annotations

from hmoe import checks
from hmoe.config import Configuration, choice, configuration, setting, switch
from hmoe.routing import losses
from hmoe.routing.router import Router

# Upstream's MoE2D has room to spare where tokens enter, and none further in, where the buffers of
# the first level have already been filled unevenly.
_CAPACITY_FACTORS = {True: (1.25, 1.0), False: (2.0, 1.0)}


def _word(where: str, field: str, value: object) -> str:
    if not isinstance(value, str) or not value.isidentifier():
        raise ValueError(
            f"Level: {field} is {value!r}; it must be one word of letters, digits and _"
        )
    return value


@configuration()
class Level(Configuration):
    """One level: how many experts (or groups of experts) it has, and the router among them.

    A level that is not the last sends tokens to groups of experts. The experts of such a level,
    below, are these groups.
    """

    name: str = setting(
        doc="The level's name in metrics and errors, one word.",
        unit="word",
        source="hmoe",
        check=_word,
    )
    num_experts: int = setting(
        doc="""Number of experts at this level. Each expert of a level that is not the last is
        itself a level of experts.""",
        unit="experts",
        source="Mesh TensorFlow `num_experts`, and `expert_x` and `expert_y` of `MoE2D`",
        check=checks.positive_int,
    )
    router: Router = setting(
        doc="Scores the experts and assigns tokens to them.",
        unit="object",
        source="hmoe; Mesh TensorFlow: `moe_gating`, a word",
        check=checks.part("hmoe.TopKRouter(k=2)", lambda value: isinstance(value, Router)),
    )
    group_size: int = setting(
        1024,
        doc="""Tokens that compete for the same buffers. A larger group drops fewer tokens at the
        same capacity; on TPUs it costs more to dispatch. The largest size that divides the tokens
        and is at most this one is used.""",
        unit="tokens",
        source="GShard; Mesh TensorFlow `group_size`",
        check=checks.positive_int,
    )
    examples_per_group: float | None = setting(
        None,
        doc="""The group size as a number of examples, fractions allowed. Inside the hierarchy it is
        the number of slots that so many examples have there on average. It takes the place of
        `group_size`; None: `group_size` holds.""",
        unit="examples",
        source="TF Model Garden `examples_per_group`",
        check=checks.optional(checks.positive_number),
    )
    capacity_factor_train: float | None = setting(
        None,
        doc="""Slots for a group in training, as a multiple of its tokens. None: 1.25 at the first
        level, 1.0 below.""",
        unit="slots a token",
        source="GShard; Mesh TensorFlow `capacity_factor_train`",
        check=checks.optional(checks.positive_number),
    )
    capacity_factor_eval: float | None = setting(
        None,
        doc="The same in evaluation. None: 2.0 at the first level, 1.0 below.",
        unit="slots a token",
        source="GShard; Mesh TensorFlow `capacity_factor_eval`",
        check=checks.optional(checks.positive_number),
    )
    min_capacity: int = setting(
        4,
        doc="""Slots that every expert has at least for a group; never more than the group has
        tokens.""",
        unit="slots",
        source="Mesh TensorFlow `min_expert_capacity`",
        check=checks.non_negative_int,
    )
    balance_loss_coef: float = setting(
        0.01,
        doc="Weight of the balance loss in the training loss.",
        unit="factor",
        source="GShard; Mesh TensorFlow `loss_coef`",
        check=checks.non_negative_number,
    )
    balance_loss_over: str = choice(
        "group",
        losses.POOLS,
        doc="""Whether load and probabilities are averaged over each "group", over each "example",
        or over the whole "batch" on all devices before they are multiplied.""",
        source="OLMo-core `lb_loss_granularity`; Mesh TensorFlow: group",
    )
    balance_loss_mean_over: str = choice(
        "tokens",
        losses.MEANS,
        doc="""What these averages divide by: "tokens" (the full ones, so that padding and empty
        slots change nothing and 1 means even at every level), or "positions" (padding and empty
        slots too, as in Mesh TensorFlow).""",
        source="hmoe: tokens; Mesh TensorFlow: positions",
    )
    balance_loss_choices: str = choice(
        "first",
        losses.COUNTED_CHOICES,
        doc='Whether the load counts the "first" choice of each token, or "all" of them.',
        source="OLMo-core: all; Mesh TensorFlow: first",
    )
    z_loss_coef: float = setting(
        0.0,
        doc="Weight of the router z-loss in the training loss.",
        unit="factor",
        source="ST-MoE, equation 5; Mesh TensorFlow `z_loss`",
        check=checks.non_negative_number,
    )
    second_place_loss: bool = switch(
        False,
        doc="Whether the balance loss also counts second choices, at half the weight.",
        source="Mesh TensorFlow `use_second_place_loss`",
    )

    def error_prefix(self) -> str:
        """Returns how errors name the level."""
        return f"level '{self.name}'"

    def check_together(self) -> None:
        """Raises ValueError for losses that contradict each other or that the router lacks."""
        where, router = self.error_prefix(), self.router
        if (self.balance_loss_over, self.balance_loss_mean_over) == ("example", "positions"):
            raise ValueError(
                f"{where}: balance_loss_mean_over is 'positions', but balance_loss_over is"
                " 'example', and at inner levels an example has no positions of its own; use"
                " 'tokens', or average over groups or the batch"
            )
        if self.second_place_loss and not router.has_second_choice:
            raise ValueError(
                f"{where}: second_place_loss is True, but its router makes one choice a token; use"
                " k of at least 2 or second_place_loss = False"
            )
        for field, default in {
            "balance_loss_over": "group",
            "balance_loss_choices": "first",
        }.items():
            value = getattr(self, field)
            if value != default and not router.has_balance_loss:
                raise ValueError(
                    f"{where}: {field} is {value!r}, but {type(router).__name__} has no such loss,"
                    f" since experts choose; leave {field} at {default!r}"
                )

    def capacity_factor(self, *, train: bool, depth: int) -> float:
        """Returns the capacity factor of this level, `depth` levels below the first."""
        asked = self.capacity_factor_train if train else self.capacity_factor_eval
        return _CAPACITY_FACTORS[train][min(depth, 1)] if asked is None else asked
