"""Tokens choose experts: what all such routers share."""

from __future__ import annotations

import abc
import dataclasses
import logging

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.mesh.local_ops import Local
from hmoe.routing.assignment import Assignment, Choices, Fallback, place
from hmoe.routing.gate import Gate, Scores
from hmoe.routing.router import Router, RoutingContext

POLICIES = ("all", "none", "threshold", "random")

# Keeps a weight finite where every chosen probability has rounded to 0.
_TINY = 1e-9


class TokenChoiceRouter(Router):
    """Sends each token to the k experts that `rank_experts` names first.

    A subclass writes `rank_experts`. The weights of the k experts are normalised over
    all k, before later choices are dropped by policy or for lack of room, and not
    again after (Shazeer et al. 2017, section 2.1; GShard, algorithm 1). A partial
    token gets its best expert alone, after the first choices of all full tokens.

    Attributes:
      k: experts per token.
      policy_train: what happens to choices after the first, in training: "all" are
        used, "none" is, those with a weight above a "threshold", or each with
        probability min(1, weight / threshold): "random".
      policy_eval: the same in evaluation and prediction, where "random" draws the same
        numbers for every batch of a checkpoint.
      threshold_train: the weight at which a later choice is (always) used.
      threshold_eval: the same in evaluation and prediction.
      weight_norm: p of the norm over the chosen probabilities by which weights are
        divided; 1 makes them sum to one. None leaves probabilities as they are. With
        k = 1 they always are, or the router would have no gradient.
      priority: whether buffers keep the tokens whose first expert has the highest
        probability (V-MoE, section 2.5), and not those that come first. In a decoder,
        training then drops tokens by tokens that come later.
      retries: further experts that a choice tries when its expert is full, in the order
        of the token's preference (No-Token-Left-Behind). Those of an inner level stand
        in the same outer group, so nothing more crosses the outer axis.
      bias_update_rate: step of the bias per expert that balances the load without a
        loss. It is added to the probabilities to choose by, not to weigh by (DeepSeek-V3,
        section 2.1.2). 0 holds a trained bias where it is; None: there is none.
    """

    def __init__(
        self,
        *,
        k: int = 1,
        policy_train: str = "all",
        policy_eval: str = "all",
        threshold_train: float = 0.2,
        threshold_eval: float = 0.2,
        weight_norm: float | None = None,
        priority: bool = False,
        retries: int = 0,
        bias_update_rate: float | None = None,
        gate: Gate | None = None,
    ):
        """Checks and keeps the settings; see the class for their meaning.

        Raises:
          ValueError: a setting is out of range.
        """
        where = type(self).__name__
        super().__init__(gate=gate)
        self.k = checks.positive_int(where, "k", k)
        self.policy_train = checks.one_of(where, "policy_train", policy_train, POLICIES)
        self.policy_eval = checks.one_of(where, "policy_eval", policy_eval, POLICIES)
        self.threshold_train = checks.positive_number(where, "threshold_train", threshold_train)
        self.threshold_eval = checks.positive_number(where, "threshold_eval", threshold_eval)
        self.weight_norm = (
            None
            if weight_norm is None
            else checks.positive_number(where, "weight_norm", weight_norm)
        )
        self.priority = checks.boolean(where, "priority", priority)
        self.retries = checks.non_negative_int(where, "retries", retries)
        self.bias_update_rate = (
            None
            if bias_update_rate is None
            else (checks.non_negative_number(where, "bias_update_rate", bias_update_rate))
        )
        self.max_choices = self.k
        if k > 1 and self.gate.explore_temperature is not None:
            raise ValueError(
                f"{where}: k is {k}, but its gate has explore_temperature ="
                f" {self.gate.explore_temperature}, which leaves a token one expert; use k = 1, or"
                " explore_temperature = None"
            )
        if bias_update_rate is not None and self.gate.explore_probability:
            raise ValueError(
                f"{where}: bias_update_rate is {bias_update_rate}, but its gate has"
                f" explore_probability = {self.gate.explore_probability}, and the bias could bring"
                " back the expert that exploring leaves out; set one of them to None or 0"
            )

    @abc.abstractmethod
    def rank_experts(self, scores: Scores, count: int, context: RoutingContext) -> mtf.Tensor:
        """Names the experts that each token would take, best first.

        Args:
          scores: of one level; `scores.preferences` [..., S, X] is what to choose by.
          count: how many to name; at most X.
          context: whether this is training, and the source of random numbers.

        Returns:
          int32 [..., S, count], numbers of experts, no two alike for one token.
        """

    def score(
        self,
        tokens: mtf.Tensor,
        embeddings: mtf.Tensor | None,
        experts_dim: mtf.Dimension,
        outer_expert_dims: list[mtf.Dimension],
        variable_dtype: mtf.VariableDType,
        name: str,
        context: RoutingContext,
    ) -> Scores:
        """See `Router.score`; adds `<name>/balance_bias` [*outer, X] if there is one."""
        scores = super().score(
            tokens, embeddings, experts_dim, outer_expert_dims, variable_dtype, name, context
        )
        if self.bias_update_rate is None:
            return scores
        with tf.variable_scope(name):
            # In float32 whatever weights are saved as: steps may be far below 1 / 256.
            bias = mtf.get_variable(
                tokens.mesh,
                "balance_bias",
                mtf.Shape([*outer_expert_dims, experts_dim]),
                dtype=mtf.VariableDType(tf.float32, tf.float32, tf.float32),
                initializer=tf.zeros_initializer(),
                trainable=False,
            )
        return dataclasses.replace(
            scores, balance_bias=bias, bias_update_rate=self.bias_update_rate
        )

    def assign(
        self,
        scores: Scores,
        importance: mtf.Tensor,
        capacity: int,
        capacity_name: str,
        context: RoutingContext,
    ) -> Assignment:
        """Chooses, then fills the buffers in order of choice and token."""
        return place(self.choose(scores, importance, context), capacity, capacity_name)

    def choose(self, scores: Scores, importance: mtf.Tensor, context: RoutingContext) -> Choices:
        """The choices of all tokens; round r of placement holds choice r of full tokens.

        Args:
          scores: of one level.
          importance: float32 [..., S]; see `assign`.
          context: see `assign`.

        Returns:
          The choices, best first.
        """
        k = self._clamped_k(scores.experts_dim.size, context.level)
        retries = min(self.retries, scores.experts_dim.size - k)
        order = self.rank_experts(scores, k + retries, context)
        # Partial tokens are placed in the second round, which one choice lacks.
        rounds = max(k, 2) if context.has_partial_tokens else k
        choice_dim = mtf.Dimension("choice", rounds)
        expert, rank, demand = _rounds(order, importance, k, choice_dim)
        chosen = _probabilities_of(expert, scores, demand)
        norm = self._norm(chosen, demand, k)
        weight = chosen if norm is None else _divided(chosen, norm, demand, importance)
        return Choices(
            expert,
            weight,
            rank,
            demand,
            self._apply_policy(weight, rank, demand, context),
            scores.tokens_dim,
            choice_dim,
            scores.experts_dim,
            priority=_first(_probabilities_of(expert, scores)) if self.priority else None,
            fallback=_fallback(order, importance, scores, k, retries, norm) if retries else None,
        )

    def _clamped_k(self, num_experts: int, level: str) -> int:
        if self.k > num_experts:
            logging.getLogger(__name__).warning(
                "level '%s': k = %d, but it has %d expert(s); each token goes to all of them",
                level,
                self.k,
                num_experts,
            )
        return min(self.k, num_experts)

    def _norm(self, chosen: mtf.Tensor, demand: mtf.Tensor, k: int) -> mtf.Tensor | None:
        """float32 [..., S]: what weights are divided by, or None."""
        if k == 1 or self.weight_norm is None:
            return None
        choice_dim = chosen.shape.dims[-1]
        if self.weight_norm == 1.0:
            return mtf.reduce_sum(chosen, reduced_dim=choice_dim) + _TINY
        # Powers of small numbers vanish: measured in the largest, one of them is 1. The
        # norm does not depend on the measure, so neither does its gradient.
        largest = mtf.stop_gradient(mtf.reduce_max(chosen, reduced_dim=choice_dim)) + _TINY
        # A power has no finite derivative at 0, where nothing was chosen.
        power = mtf.pow(mtf.maximum(chosen / largest, _TINY), self.weight_norm) * demand
        total = mtf.maximum(mtf.reduce_sum(power, reduced_dim=choice_dim), _TINY)
        # Small powers of nothing vanish too, and dividing by them has no finite derivative.
        return mtf.maximum(largest * mtf.pow(total, 1.0 / self.weight_norm), _TINY)

    def _apply_policy(
        self, weight: mtf.Tensor, rank: mtf.Tensor, demand: mtf.Tensor, context: RoutingContext
    ) -> mtf.Tensor:
        """float32 [..., S, K]: demand without the later choices that the policy drops."""
        policy = self.policy_train if context.train else self.policy_eval
        threshold = self.threshold_train if context.train else self.threshold_eval
        if policy == "all" or weight.shape.dims[-1].size == 1:
            return demand
        inputs = [weight, rank, demand]
        if policy == "random":
            inputs.append(context.random.uniform(weight.mesh, weight.shape))

        return mtf.slicewise(
            Local(_kept_by_policy, (policy, threshold)),
            inputs,
            output_dtype=tf.float32,
            grad_function=0,
            splittable_dims=weight.shape.dims,
            name="later_choice_policy",
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k})"


def _kept_by_policy(
    policy: str,
    threshold: float,
    weight: tf.Tensor,
    rank: tf.Tensor,
    demand: tf.Tensor,
    uniform: tf.Tensor | None = None,
) -> tf.Tensor:
    # Without TensorFlow 2 behaviour, == compares tensors by identity.
    stays = tf.equal(rank, 0)
    if policy == "threshold":
        stays |= weight > threshold
    elif policy == "random":
        stays |= uniform < weight / threshold
    return tf.where_v2(stays, demand, 0.0)


def best_experts(
    preferences: mtf.Tensor, count: int, first: mtf.Tensor | None = None
) -> mtf.Tensor:
    """The experts of highest preference; ties go to the lower number.

    Args:
      preferences: float32 [..., S, X].
      count: how many.
      first: int32 [..., S], an expert to put before all others; None: there is none.

    Returns:
      int32 [..., S, count].
    """
    tokens = preferences.shape.dims[:-1]
    inputs = [preferences] if first is None else [preferences, first]
    shape = mtf.Shape([*tokens, mtf.Dimension("preference", count)])
    return mtf.slicewise(
        Local(_best, (count,)),
        inputs,
        output_shape=shape,
        output_dtype=tf.int32,
        splittable_dims=tokens,
        grad_function=0,
        name="best_experts",
    )


def _best(count: int, left: tf.Tensor, *given: tf.Tensor) -> tf.Tensor:
    best: list[tf.Tensor] = []
    # One pass an expert, since sorting is slow.
    for number in range(count):
        if number:
            taken = tf.one_hot(
                best[-1], left.shape[-1], dtype=tf.bool, on_value=True, off_value=False
            )
            left = tf.where_v2(taken, left.dtype.min, left)
        best.append(
            given[0] if given and number == 0 else tf.argmax(left, axis=-1, output_type=tf.int32)
        )
    return tf.stack(best, axis=-1)


def _rounds(
    order: mtf.Tensor, importance: mtf.Tensor, k: int, choice_dim: mtf.Dimension
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """(expert int32, rank int32, demand float32), each [..., S, K]."""
    shape = mtf.Shape([*importance.shape.dims, choice_dim])
    return mtf.slicewise(
        Local(_arranged, (choice_dim.size, k)),
        [order, importance],
        output_shape=[shape] * 3,
        output_dtype=[tf.int32, tf.int32, tf.float32],
        splittable_dims=importance.shape.dims[:-1],
        grad_function=0,
        name="rounds",
    )


def _arranged(
    num_rounds: int, k: int, order: tf.Tensor, importance: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    rounds = list(range(num_rounds))
    is_choice = [float(number < k) for number in rounds]
    # Partial tokens wait for the second round.
    is_second = [float(number == 1) for number in rounds]
    importance = importance[..., None]
    full = tf.equal(importance, 1.0)
    partial = (importance > 0) & ~full
    own = order[..., :num_rounds]
    if num_rounds > k:
        own = tf.concat([order[..., :k], order[..., k - 1 : k]], -1)
    demand = tf.where_v2(partial, is_second, tf.cast(full, tf.float32) * is_choice)
    return tf.where_v2(partial, order[..., :1], own), tf.where_v2(partial, 0, rounds), demand


def _fallback(
    order: mtf.Tensor,
    importance: mtf.Tensor,
    scores: Scores,
    k: int,
    retries: int,
    norm: mtf.Tensor | None,
) -> Fallback:
    """The experts after a token's own, in order of preference."""
    shape = mtf.Shape([*importance.shape.dims, mtf.Dimension("choice", retries)])
    expert = mtf.slicewise(
        Local(_after, (k, retries)),
        [order, importance],
        output_shape=shape,
        output_dtype=tf.int32,
        splittable_dims=importance.shape.dims[:-1],
        grad_function=0,
        name="fallback",
    )
    weight = _probabilities_of(expert, scores)
    return Fallback(expert, weight if norm is None else weight / norm)


def _after(k: int, retries: int, order: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
    # A partial token has one expert of its own.
    full = tf.equal(importance, 1.0)[..., None]
    return tf.where_v2(full, order[..., k : k + retries], order[..., 1 : 1 + retries])


def _probabilities_of(
    expert: mtf.Tensor, scores: Scores, demand: mtf.Tensor | None = None
) -> mtf.Tensor:
    """float32 [..., S, K]: of each expert, times the demand for it if that is given."""
    tokens = expert.shape.dims[:-1]

    def gradient(operation: mtf.Operation, dy: mtf.Tensor) -> list[mtf.Tensor | None]:
        probabilities, *of_choices = operation.inputs
        back = mtf.slicewise(
            Local(_put_back),
            [dy, probabilities, *of_choices],
            output_shape=probabilities.shape,
            output_dtype=tf.float32,
            splittable_dims=tokens,
            grad_function=0,
            name="probabilities_of_gradient",
        )
        return [back, *(None for _ in of_choices)]

    return mtf.slicewise(
        Local(_pick),
        [scores.probabilities, expert, *([] if demand is None else [demand])],
        output_shape=expert.shape,
        output_dtype=tf.float32,
        splittable_dims=tokens,
        grad_function=gradient,
        name="probabilities_of",
    )


def _pick(probabilities: tf.Tensor, *of_choices: tf.Tensor) -> tf.Tensor:
    one_hot = _one_hot(probabilities, *of_choices)
    return tf.reduce_sum(one_hot * probabilities[..., None, :], axis=-1)


def _put_back(dy: tf.Tensor, probabilities: tf.Tensor, *of_choices: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(_one_hot(probabilities, *of_choices) * dy[..., None], axis=-2)


def _one_hot(
    probabilities: tf.Tensor, expert: tf.Tensor, demand: tf.Tensor | None = None
) -> tf.Tensor:
    """float32 [..., S, K, X]: the demand, or 1, at the expert of each choice."""
    one_hot = tf.one_hot(expert, probabilities.shape[-1], dtype=tf.float32)
    return one_hot if demand is None else one_hot * demand[..., None]


def _divided(
    chosen: mtf.Tensor, norm: mtf.Tensor, demand: mtf.Tensor, importance: mtf.Tensor
) -> mtf.Tensor:
    """Normalised weights [..., S, K]; a partial token's only one is exactly 1.

    Dividing a probability by itself would leave a gradient of rounding errors, which
    an optimizer that scales gradients blows up.
    """
    tokens = importance.shape.dims

    def gradient(operation: mtf.Operation, dy: mtf.Tensor) -> list[mtf.Tensor | None]:
        chosen, norm, _, importance = operation.inputs
        of_chosen, of_norm = mtf.slicewise(
            Local(_divide_gradient),
            [dy, operation.outputs[0], norm, importance],
            output_shape=[chosen.shape, norm.shape],
            output_dtype=[tf.float32] * 2,
            splittable_dims=tokens,
            grad_function=0,
            name="divided_gradient",
        )
        return [of_chosen, of_norm, None, None]

    return mtf.slicewise(
        Local(_divide),
        [chosen, norm, demand, importance],
        output_shape=chosen.shape,
        output_dtype=tf.float32,
        splittable_dims=tokens,
        grad_function=gradient,
        name="divided",
    )


def _divide(
    chosen: tf.Tensor, norm: tf.Tensor, demand: tf.Tensor, importance: tf.Tensor
) -> tf.Tensor:
    # As Mesh TensorFlow divides, to the last bit.
    share = chosen * tf.math.reciprocal(norm)[..., None]
    return tf.where_v2((importance < 1.0)[..., None], demand, share)


def _divide_gradient(
    dy: tf.Tensor, weight: tf.Tensor, norm: tf.Tensor, importance: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    of_chosen = tf.where_v2((importance < 1.0)[..., None], 0.0, dy / norm[..., None])
    return of_chosen, -tf.reduce_sum(of_chosen * weight, axis=-1)


def _first(values: mtf.Tensor) -> mtf.Tensor:
    """[..., S] of [..., S, K], without a gradient."""
    choice = values.shape.dims[-1]
    return mtf.reshape(
        mtf.slice(mtf.stop_gradient(values), 0, 1, choice.name), mtf.Shape(values.shape.dims[:-1])
    )
