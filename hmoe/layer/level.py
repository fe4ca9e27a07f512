"""What one level of the hierarchy is."""

from __future__ import annotations

from hmoe import checks
from hmoe.routing import losses
from hmoe.routing.router import Router, checked_router

# Upstream's MoE2D: room to spare where tokens enter, none further in, where the
# buffers of the first level have already been filled unevenly.
_CAPACITY_FACTORS = {True: (1.25, 1.0), False: (2.0, 1.0)}


class Level:
    """One level: how many experts (or groups of experts), and who goes where.

    Attributes:
      name: how metrics and errors call this level; one word.
      num_experts: number of destinations at this level. Of a level that is not
        the last, each destination is itself a level of experts.
      router: scores the destinations and chooses among them.
      group_size: tokens that compete for the same buffers. A larger group drops
        fewer tokens at the same capacity; on TPUs it costs more to dispatch. The largest
        size that divides the tokens and is at most this one is used.
      examples_per_group: the same as a number of examples, fractions allowed; inside
        the hierarchy, the slots that so many examples have there on average. Given, it
        takes the place of `group_size`.
      capacity_factor_train: slots for a group, as a multiple of its tokens, in
        training. None: 1.25 at the first level, 1.0 below.
      capacity_factor_eval: the same in evaluation and prediction. None: 2.0 and
        1.0.
      min_capacity: slots that every expert has at least, per group; never more than the
        group has tokens.
      balance_loss_coef: weight of the balance loss in the training loss.
      balance_loss_over: whether load and probabilities are averaged by "group", by
        "example", or over the whole "batch" of all devices, before they are multiplied.
      balance_loss_mean_over: what these averages divide by: "tokens" (the full ones, so
        that padding and empty slots change nothing and 1 means even at every level), or
        "positions" (padding and empty slots too, as Mesh TensorFlow does).
      balance_loss_choices: whether the load counts the "first" choice of each token, or
        "all" of them.
      z_loss_coef: weight of the router z-loss in the training loss.
      second_place_loss: whether the balance loss also counts second choices, at
        half the weight.
    """

    def __init__(
        self,
        name: str,
        *,
        num_experts: int,
        router: Router,
        group_size: int = 1024,
        examples_per_group: float | None = None,
        capacity_factor_train: float | None = None,
        capacity_factor_eval: float | None = None,
        min_capacity: int = 4,
        balance_loss_coef: float = 0.01,
        balance_loss_over: str = "group",
        balance_loss_mean_over: str = "tokens",
        balance_loss_choices: str = "first",
        z_loss_coef: float = 0.0,
        second_place_loss: bool = False,
    ):
        """Checks and keeps the settings; see the class for their meaning.

        Raises:
          ValueError: a setting is out of range.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f"Level: name is {name!r}; it must be one word of letters, digits and _"
            )
        where = f"level '{name}'"
        self.name = name
        self.router = checked_router(where, router)
        self.num_experts = checks.positive_int(where, "num_experts", num_experts)
        self.group_size = checks.positive_int(where, "group_size", group_size)
        self.examples_per_group = _optional_positive(
            where, "examples_per_group", examples_per_group
        )
        self.capacity_factor_train = _optional_positive(
            where, "capacity_factor_train", capacity_factor_train
        )
        self.capacity_factor_eval = _optional_positive(
            where, "capacity_factor_eval", capacity_factor_eval
        )
        self.min_capacity = checks.non_negative_int(where, "min_capacity", min_capacity)
        self.balance_loss_coef = checks.non_negative_number(
            where, "balance_loss_coef", balance_loss_coef
        )
        self.balance_loss_over = checks.one_of(
            where, "balance_loss_over", balance_loss_over, losses.POOLS
        )
        self.balance_loss_mean_over = checks.one_of(
            where, "balance_loss_mean_over", balance_loss_mean_over, losses.MEANS
        )
        if (balance_loss_over, balance_loss_mean_over) == ("example", "positions"):
            raise ValueError(
                f"{where}: balance_loss_mean_over is 'positions', but balance_loss_over is"
                " 'example', and further in an example has no positions of its own; use 'tokens',"
                " or average over groups or the batch"
            )
        self.balance_loss_choices = checks.one_of(
            where, "balance_loss_choices", balance_loss_choices, losses.COUNTED_CHOICES
        )
        self.z_loss_coef = checks.non_negative_number(where, "z_loss_coef", z_loss_coef)
        self.second_place_loss = checks.boolean(where, "second_place_loss", second_place_loss)
        self._check_router_has_losses(where)

    def _check_router_has_losses(self, where: str) -> None:
        if self.second_place_loss and not self.router.has_second_choice:
            raise ValueError(
                f"{where}: second_place_loss is True, but its router makes one choice a token;"
                " use k of at least 2 or second_place_loss = False"
            )
        defaults = {"balance_loss_over": "group", "balance_loss_choices": "first"}
        for field, default in defaults.items():
            value = getattr(self, field)
            if value != default and not self.router.has_balance_loss:
                raise ValueError(
                    f"{where}: {field} is {value!r}, but {self.router!r} has no such loss, since"
                    f" experts choose; leave {field} at {default!r}"
                )

    def capacity_factor(self, *, train: bool, depth: int) -> float:
        """The capacity factor of this level when it stands `depth` levels below the first."""
        asked = self.capacity_factor_train if train else self.capacity_factor_eval
        return _CAPACITY_FACTORS[train][min(depth, 1)] if asked is None else asked

    def __repr__(self) -> str:
        return f"Level({self.name!r}, num_experts={self.num_experts}, router={self.router!r})"


def _optional_positive(where: str, field: str, value: float | None) -> float | None:
    return None if value is None else checks.positive_number(where, field, value)
