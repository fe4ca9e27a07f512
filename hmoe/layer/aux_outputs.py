"""What the levels of a layer tell in one call: losses, sums for metrics, biases to move."""

from __future__ import annotations

from hmoe.compat.stack import mtf, tf
from hmoe.layer import metrics
from hmoe.layer.level import Level
from hmoe.layer.token_batch import Arrivals
from hmoe.routing import losses
from hmoe.routing.assignment import Assignment
from hmoe.routing.balancing import BiasUpdate
from hmoe.routing.gate import Scores


class Told:
    """Gathers what each level tells.

    Attributes:
      losses: scalars "<level>/<kind>", weighted; their sum is trained on.
      sums: for `hmoe.layer.metrics.summarize`.
      bias_updates: biases to move after the step.
    """

    def __init__(
        self,
        *,
        train: bool,
        detail: str,
        aux_loss_factor: float,
        router_z_loss_factor: float,
        num_microbatches: int,
        num_examples: int,
    ):
        """Keeps the settings of the layer and of the call; `detail` is that of metrics."""
        self._train = train
        self._detail = detail
        self._aux_loss_factor = aux_loss_factor
        self._router_z_loss_factor = router_z_loss_factor
        self._num_microbatches = num_microbatches
        self._num_examples = num_examples
        self.losses: dict[str, mtf.Tensor] = {}
        self.sums: dict[str, mtf.Tensor] = {}
        self.bias_updates: list[BiasUpdate] = []

    def tell(
        self,
        level: Level,
        scores: Scores,
        assignment: Assignment,
        arrivals: Arrivals,
        outer_experts: list[mtf.Dimension],
    ) -> None:
        """Adds the losses of a level to `losses`, its sums to `sums`, its bias to move."""
        self._tell_losses(level, scores, assignment, arrivals, outer_experts)
        moves_bias = self._train and scores.bias_update_rate > 0
        if self._detail != "off" or moves_bias:
            self.sums[metrics.load_name(level.name)] = metrics.level_load(assignment, outer_experts)
        if self._detail != "off":
            self.sums.update(
                metrics.level_sums(
                    level.name,
                    scores,
                    assignment,
                    arrivals.importance,
                    outer_experts,
                    self._detail,
                    level.router.num_ranks(level.num_experts),
                )
            )
        if moves_bias:
            self.bias_updates.append(
                BiasUpdate(
                    scores.balance_bias, metrics.load_name(level.name), scores.bias_update_rate
                )
            )

    def _tell_losses(
        self,
        level: Level,
        scores: Scores,
        assignment: Assignment,
        arrivals: Arrivals,
        outer_experts: list[mtf.Dimension],
    ) -> None:
        choices, importance = assignment.choices, arrivals.importance
        pool = self._pool(level, arrivals, outer_experts)
        full = losses.num_full(importance)
        raw = {
            "balance": level.router.balance_loss(
                scores, assignment, importance, pool, level.balance_loss_choices
            ),
            "z": losses.router_z_loss(scores, importance),
        }
        weight = {"balance": full, "z": full}
        factor = {
            "balance": self._aux_loss_factor * level.balance_loss_coef,
            "z": self._router_z_loss_factor * level.z_loss_coef,
        }
        if level.second_place_loss:
            raw["second_place"] = losses.second_place_loss(scores, choices, importance, pool)
            factor["second_place"] = 0.5 * factor["balance"]
            weight["second_place"] = losses.num_real(importance)
        weighted = {
            kind: raw[kind] * (factor[kind] / self._num_microbatches)
            for kind in raw
            if factor[kind]
        }
        # A layer always has a loss to show and to add, if only a zero.
        weighted = weighted or {"balance": mtf.zeros_like(raw["balance"])}
        self.losses.update({f"{level.name}/{kind}": loss for kind, loss in weighted.items()})
        self.sums[metrics.losses_name(level.name)] = metrics.loss_sums(raw, weight, factor)

    def _pool(
        self, level: Level, arrivals: Arrivals, outer_experts: list[mtf.Dimension]
    ) -> losses.Pool:
        """What the balance loss of a level is averaged over."""
        mean_over = level.balance_loss_mean_over
        if level.balance_loss_over == "group":
            return losses.group_pool(arrivals.importance, mean_over)
        if level.balance_loss_over == "batch":
            return losses.batch_pool(arrivals.importance, outer_experts, mean_over)
        return losses.example_pool(
            mtf.cast(arrivals.example, tf.int32), self._num_examples, outer_experts
        )
