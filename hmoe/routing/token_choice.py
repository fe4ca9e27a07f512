"""Choosing where tokens choose experts: ranks, rounds of placement, later choices and retries."""

from __future__ import annotations

import abc
import dataclasses
import logging

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.config import choice, configuration, setting, switch
from hmoe.routing import weights
from hmoe.routing.assignment import Assignment, Choices, Fallback, fill_buffers
from hmoe.routing.context import RoutingContext
from hmoe.routing.router import Router
from hmoe.routing.scores import Scores

POLICIES = ("all", "none", "threshold", "random")


@configuration()
class TokenChoiceRouter(Router):
    """Sends each token to the k experts that `rank_experts` names first.

    A subclass writes `rank_experts`. The weights of the k experts are normalized over all k before
    later choices are dropped by the policy or for lack of room, and not again afterwards (Shazeer
    et al. 2017, section 2.1; GShard, algorithm 1). A partial token gets its best expert alone,
    after the first choices of all full tokens.
    """

    k: int = setting(
        1,
        doc="Experts that each token chooses.",
        unit="experts a token",
        source="Shazeer 2017; Mesh TensorFlow `top_n_num_experts_per_token`; OLMo-core `top_k`",
        check=checks.positive_int,
    )
    policy_train: str = choice(
        "all",
        POLICIES,
        doc="""Which choices after the first are used in training: "all" of them, "none", those with
        a weight above a "threshold", or each with probability min(1, weight / threshold):
        "random".""",
        source="GShard, algorithm 1; Mesh TensorFlow `second_policy_train`",
    )
    policy_eval: str = choice(
        "all",
        POLICIES,
        doc="""The same in evaluation and prediction, where "random" draws the same numbers for
        every batch of a checkpoint.""",
        source="Mesh TensorFlow `second_policy_eval`",
    )
    threshold_train: float = setting(
        0.2,
        doc="The weight from which a later choice is (always) used in training.",
        unit="weight",
        source="Mesh TensorFlow `second_threshold_train`",
        check=checks.positive_number,
    )
    threshold_eval: float = setting(
        0.2,
        doc="The same in evaluation and prediction.",
        unit="weight",
        source="Mesh TensorFlow `second_threshold_eval`",
        check=checks.positive_number,
    )
    weight_norm: float | None = setting(
        None,
        doc="""Weights are divided by the p-norm of the chosen probabilities; with p = 1 they sum to
        one. None: weights are the probabilities themselves. With k = 1 they always are, since the
        router would have no gradient otherwise.""",
        unit="p of the norm",
        source="OLMo-core `normalize_expert_weights`; Mesh TensorFlow: 1",
        check=checks.optional(checks.positive_number),
    )
    priority: bool = switch(
        False,
        doc="""Whether full buffers keep the tokens whose first expert has the highest probability
        (V-MoE, section 2.5) instead of those that come first. In a decoder, later tokens then
        decide in training which earlier ones are dropped.""",
        source='V-MoE; Mesh TensorFlow `moe_gating = "switch_max"`',
    )
    retries: int = setting(
        0,
        doc="""Further experts that a choice tries when its own is full, in the order of the token's
        preference (No-Token-Left-Behind). At an inner level they belong to the same outer group, so
        that nothing more crosses the outer axis of the mesh.""",
        unit="experts",
        source="Mesh TensorFlow `ntlb_top_k`; hmoe: at any level and for any k",
        check=checks.non_negative_int,
    )
    bias_update_rate: float | None = setting(
        None,
        doc="""How far the balance bias of an expert moves in a step. The bias balances the load
        without a loss: it is added to the probabilities when experts are chosen, but not when they
        are weighed (DeepSeek-V3, section 2.1.2). 0 holds a trained bias where it is. None: there is
        no bias.""",
        unit="probability a step",
        source="DeepSeek-V3; OLMo-core `bias_gamma`",
        check=checks.optional(checks.non_negative_number),
    )

    def check_together(self) -> None:
        """Raises ValueError for a gate that explores where the router cannot."""
        where, gate = self.error_prefix(), self.gate
        if self.k > 1 and gate.explore_temperature is not None:
            raise ValueError(
                f"{where}: k is {self.k}, but its gate has explore_temperature ="
                f" {gate.explore_temperature}, which leaves a token one expert; use k = 1, or"
                " explore_temperature = None"
            )
        if self.bias_update_rate is not None and gate.explore_probability:
            raise ValueError(
                f"{where}: bias_update_rate is {self.bias_update_rate}, but its gate has"
                f" explore_probability = {gate.explore_probability}, and the bias could bring back"
                " the expert that exploring leaves out; set one of them to None or 0"
            )

    @property
    def max_choices(self) -> int | None:
        """Experts that a token can reach at most at this level: k."""
        return self.k

    def highest_probability_at_least(self, weight: float, num_experts: int) -> float | None:
        """Returns the weight of a softmax, which is the probability of some expert; else None."""
        is_divided = self.weight_norm is not None and self.num_choices(num_experts) > 1
        return weight if self.gate.function == "softmax" and not is_divided else None

    @property
    def reason_not_to_replay(self) -> str | None:
        """Says why the router cannot take recorded choices in place of its own; None: it can."""
        if not self.retries:
            return None
        return (
            f"its router has retries = {self.retries}, with which a choice can go to another expert"
            " than the recorded one; set retries = 0"
        )

    @abc.abstractmethod
    def rank_experts(self, scores: Scores, count: int, context: RoutingContext) -> mtf.Tensor:
        """Names the experts that each token would take, best first.

        Args:
          scores: the scores of one level; `scores.preferences` [..., S, X] is what to choose by.
          count: how many experts to name, at most X.
          context: whether this is training, and the source of random numbers.

        Returns:
          int32 [..., S, count], numbers of experts, all different for one token.
        """

    def score(
        self, tokens: mtf.Tensor, embeddings: mtf.Tensor | None, context: RoutingContext
    ) -> Scores:
        """Scores every expert; adds `<scope>/balance_bias` [*outer experts, X] if there is one."""
        scores = super().score(tokens, embeddings, context)
        if self.bias_update_rate is None:
            return scores
        return dataclasses.replace(
            scores,
            balance_bias=weights.balance_bias(tokens.mesh, context),
            bias_update_rate=self.bias_update_rate,
        )

    def assign(self, scores: Scores, importance: mtf.Tensor, context: RoutingContext) -> Assignment:
        """Chooses experts, then fills their buffers in the order of choices and tokens."""
        return fill_buffers(self.choose(scores, importance, context), context.capacity_dim)

    def choose(self, scores: Scores, importance: mtf.Tensor, context: RoutingContext) -> Choices:
        """Chooses experts for all tokens.

        Round r of placement holds choice r of full tokens.

        Args:
          scores: the scores of one level.
          importance: float32 [..., S]; see `assign`.
          context: see `assign`.

        Returns:
          The choices, best first.
        """
        k = self._clamped_k(context)
        retries = min(self.retries, scores.experts_dim.size - k)
        # Partial tokens are placed in the second round, which one choice lacks.
        num_rounds = max(k, 2) if context.has_partial_tokens else k
        choice_dim = mtf.Dimension("choice", num_rounds)
        if context.replayed is None:
            order = self.rank_experts(scores, k + retries, context)
            expert, rank, demand = _rounds(order, importance, k, choice_dim)
        else:
            order = mtf.cast(context.replayed, tf.int32)
            entries, rank, demand = _rounds(order, importance, k, choice_dim)
            expert, demand, wanted = _from_entries(entries, demand)
        weight, norm = weights.weigh(
            scores, expert, demand, importance, self.weight_norm if k > 1 else None
        )
        if context.replayed is None:
            wanted = self._apply_policy(weight, rank, demand, context)
        return Choices(
            expert,
            weight,
            rank,
            demand,
            wanted,
            scores.tokens_dim,
            choice_dim,
            scores.experts_dim,
            priority=weights.first_probability(scores, expert) if self.priority else None,
            fallback=_fallback(order, importance, scores, k, norm) if retries else None,
        )

    def _clamped_k(self, context: RoutingContext) -> int:
        num_experts = context.experts_dim.size
        if self.k > num_experts:
            logging.getLogger(__name__).warning(
                "level '%s': k = %d, but it has %d expert(s); each token goes to all of them",
                context.level,
                self.k,
                num_experts,
            )
        return min(self.k, num_experts)

    def _apply_policy(
        self, weight: mtf.Tensor, rank: mtf.Tensor, demand: mtf.Tensor, context: RoutingContext
    ) -> mtf.Tensor:
        """Returns float32 [..., S, K]: demand without the later choices that the policy drops."""
        policy = self.policy_train if context.train else self.policy_eval
        threshold = self.threshold_train if context.train else self.threshold_eval
        if policy == "all" or weight.shape.dims[-1].size == 1:
            return demand
        inputs = [weight, rank, demand]
        if policy == "random":
            inputs.append(context.random.uniform(weight.mesh, weight.shape))

        def keep(
            weight: tf.Tensor, rank: tf.Tensor, demand: tf.Tensor, uniform: tf.Tensor | None = None
        ) -> tf.Tensor:
            # Without TensorFlow 2 behavior, == compares tensors by identity.
            stays = tf.equal(rank, 0)
            if policy == "threshold":
                stays |= weight > threshold
            elif policy == "random":
                stays |= uniform < weight / threshold
            return tf.where_v2(stays, demand, 0.0)

        return mtf.slicewise(
            keep,
            inputs,
            output_dtype=tf.float32,
            grad_function=0,
            splittable_dims=weight.shape.dims,
            name="later_choice_policy",
        )


def best_experts(
    preferences: mtf.Tensor, count: int, first: mtf.Tensor | None = None
) -> mtf.Tensor:
    """Returns the experts of highest preference; ties go to the lower number.

    Args:
      preferences: float32 [..., S, X].
      count: how many experts to name.
      first: int32 [..., S], an expert to put before all others; None: there is none.

    Returns:
      int32 [..., S, count].
    """

    def best_first(left: tf.Tensor, first: tf.Tensor | None = None) -> tf.Tensor:
        best: list[tf.Tensor] = []
        # One pass an expert, since sorting is slow.
        for number in range(count):
            if number:
                # [..., S] -> [..., S, X]
                taken = tf.one_hot(
                    best[-1], left.shape[-1], dtype=tf.bool, on_value=True, off_value=False
                )
                left = tf.where_v2(taken, left.dtype.min, left)
            given = first if number == 0 else None
            best.append(tf.argmax(left, axis=-1, output_type=tf.int32) if given is None else given)
        # count of [..., S] -> [..., S, count]
        return tf.stack(best, axis=-1)

    tokens = preferences.shape.dims[:-1]
    return mtf.slicewise(
        best_first,
        [preferences] if first is None else [preferences, first],
        output_shape=mtf.Shape([*tokens, mtf.Dimension("preference", count)]),
        output_dtype=tf.int32,
        splittable_dims=tokens,
        grad_function=0,
        name="best_experts",
    )


def _rounds(
    order: mtf.Tensor, importance: mtf.Tensor, k: int, choice_dim: mtf.Dimension
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Arranges preferences in rounds of placement.

    Args:
      order: int32 [..., S, k + retries], experts, best first.
      importance: float32 [..., S].
      k: choices of a full token.
      choice_dim: K, the rounds.

    Returns:
      (expert int32, rank int32, demand float32), each [..., S, K].
    """
    rounds = list(range(choice_dim.size))

    def arrange(order: tf.Tensor, importance: tf.Tensor) -> tuple[tf.Tensor, ...]:
        is_choice = [float(number < k) for number in rounds]
        # Partial tokens wait for the second round.
        is_second = [float(number == 1) for number in rounds]
        # [..., S] -> [..., S, 1]
        importance = importance[..., None]
        full = tf.equal(importance, 1.0)
        partial = (importance > 0) & ~full
        own = order[..., : len(rounds)]
        if len(rounds) > k:
            own = tf.concat([order[..., :k], order[..., k - 1 : k]], -1)
        demand = tf.where_v2(partial, is_second, tf.cast(full, tf.float32) * is_choice)
        return tf.where_v2(partial, order[..., :1], own), tf.where_v2(partial, 0, rounds), demand

    return mtf.slicewise(
        arrange,
        [order, importance],
        output_shape=[mtf.Shape([*importance.shape.dims, choice_dim])] * 3,
        output_dtype=[tf.int32, tf.int32, tf.float32],
        splittable_dims=importance.shape.dims[:-1],
        grad_function=0,
        name="rounds",
    )


def _from_entries(entries: mtf.Tensor, demand: mtf.Tensor) -> tuple[mtf.Tensor, ...]:
    """Takes recorded choices apart.

    Args:
      entries: int32 [..., S, K], expert + 1, negative for an unused choice, 0 for none.
      demand: float32 [..., S, K], 1 where a token of its importance has a choice.

    Returns:
      (expert int32, demand float32, wanted float32), each [..., S, K].
    """

    def take_apart(entries: tf.Tensor, demand: tf.Tensor) -> tuple[tf.Tensor, ...]:
        expert = tf.maximum(tf.abs(entries) - 1, 0)
        demanded = tf.where_v2(tf.equal(entries, 0), 0.0, demand)
        return expert, demanded, tf.where_v2(entries > 0, demanded, 0.0)

    return mtf.slicewise(
        take_apart,
        [entries, demand],
        output_shape=[entries.shape] * 3,
        output_dtype=[tf.int32, tf.float32, tf.float32],
        splittable_dims=entries.shape.dims,
        grad_function=0,
        name="replayed_choices",
    )


def _fallback(
    order: mtf.Tensor,
    importance: mtf.Tensor,
    scores: Scores,
    k: int,
    norm: mtf.Tensor | None,
) -> Fallback:
    """Returns the experts after a token's own, in the order of preference."""
    retries = order.shape.dims[-1].size - k

    def following(order: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
        # A partial token has one expert of its own.
        full = tf.equal(importance, 1.0)[..., None]
        # [..., S, k + retries] -> [..., S, retries]
        return tf.where_v2(full, order[..., k : k + retries], order[..., 1 : 1 + retries])

    expert = mtf.slicewise(
        following,
        [order, importance],
        output_shape=mtf.Shape([*importance.shape.dims, mtf.Dimension("choice", retries)]),
        output_dtype=tf.int32,
        splittable_dims=importance.shape.dims[:-1],
        grad_function=0,
        name="fallback",
    )
    weight = weights.probabilities_of(scores, expert)
    return Fallback(expert, weight if norm is None else weight / norm)
