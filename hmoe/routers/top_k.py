"""Top-k routing: every token asks for the k experts that score highest."""
from __future__ import annotations

import logging

from hmoe import checks
from hmoe.assignment import Choices
from hmoe.compat.stack import mtf, tf
from hmoe.routers.base import Router, RoutingContext, Scores

POLICIES = ("all", "none", "threshold", "random")

# Keeps a weight finite where every chosen probability has rounded to 0.
_TINY = 1e-9


class TopKRouter(Router):
    """Sends each token to the k experts of highest probability.

    The weights of the k experts are normalised over all k, before later choices
    are dropped by policy or for lack of room, and not again after (Shazeer et al.
    2017, section 2.1; GShard, algorithm 1). A partial token gets its best expert
    alone, after the first choices of all full tokens.

    Attributes:
      k: experts per token.
      policy_train: what happens to choices after the first, in training: "all" are
        used, "none" is, those with a weight above a "threshold", or each with
        probability min(1, weight / threshold): "random".
      policy_eval: the same in evaluation and prediction.
      threshold_train: the weight at which a later choice is (always) used.
      threshold_eval: the same in evaluation and prediction.
      weight_norm: p of the norm over the chosen probabilities by which weights are
        divided; 1 makes them sum to one. None leaves probabilities as they are.
        With k = 1 they always are, or the router would have no gradient.
    """

    def __init__(
        self,
        k: int = 2,
        *,
        policy_train: str = "random",
        policy_eval: str = "all",
        threshold_train: float = 0.2,
        threshold_eval: float = 0.2,
        weight_norm: float | None = 1.0,
    ):
        """Checks and keeps the settings; see the class for their meaning.

        Raises:
          ValueError: a setting is out of range.
        """
        where = "TopKRouter"
        self.k = checks.positive_int(where, "k", k)
        self.policy_train = _policy(where, "policy_train", policy_train)
        self.policy_eval = _policy(where, "policy_eval", policy_eval)
        self.threshold_train = checks.positive_number(where, "threshold_train", threshold_train)
        self.threshold_eval = checks.positive_number(where, "threshold_eval", threshold_eval)
        self.weight_norm = (
            None if weight_norm is None
            else checks.positive_number(where, "weight_norm", weight_norm))
        self.max_choices = self.k

    def variable_name(self) -> str:
        """Upstream's name of the gating with as many choices."""
        return "top_2_gating" if self.k == 2 else "top_n_gating"

    def choose(self, scores: Scores, importance: mtf.Tensor, context: RoutingContext) -> Choices:
        """See `Router.choose`; round r of placement holds choice r of full tokens."""
        k = self._clamped_k(scores.experts_dim.size, context.level)
        # Partial tokens are placed in the second round, which one choice lacks.
        rounds = max(k, 2) if context.has_partial_tokens else k
        choice_dim = mtf.Dimension("choice", rounds)
        expert, rank, demand = _best_experts(scores, importance, k, choice_dim)
        weight = self._weights(scores, expert, demand, k)
        wanted = self._apply_policy(weight, rank, demand, context)
        return Choices(expert, weight, rank, demand, wanted,
                       scores.tokens_dim, choice_dim, scores.experts_dim)

    def _clamped_k(self, num_experts: int, level: str) -> int:
        if self.k > num_experts:
            logging.getLogger(__name__).warning(
                "level '%s': k = %d, but it has %d expert(s); each token goes to all of them",
                level, self.k, num_experts)
        return min(self.k, num_experts)

    def _weights(
        self, scores: Scores, expert: mtf.Tensor, demand: mtf.Tensor, k: int
    ) -> mtf.Tensor:
        """float32 [..., S, K]: probabilities of the chosen, normalised over them."""
        one_hot = mtf.one_hot(expert, scores.experts_dim, dtype=tf.float32)
        chosen = mtf.einsum([scores.probabilities, one_hot], expert.shape) * demand
        if k == 1 or self.weight_norm is None:
            return chosen
        choice_dim = expert.shape.dims[-1]
        if self.weight_norm == 1.0:
            norm = mtf.reduce_sum(chosen, reduced_dim=choice_dim)
        else:
            # The power has no finite derivative at 0, where nothing was chosen.
            power = mtf.pow(mtf.maximum(chosen, _TINY), self.weight_norm) * demand
            total = mtf.maximum(mtf.reduce_sum(power, reduced_dim=choice_dim), _TINY)
            norm = mtf.pow(total, 1.0 / self.weight_norm)
        return chosen / (norm + _TINY)

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

        def decide(weight: tf.Tensor, rank: tf.Tensor, demand: tf.Tensor,
                   uniform: tf.Tensor = None) -> tf.Tensor:
            if policy == "none":
                later = tf.zeros_like(weight, dtype=tf.bool)
            elif policy == "threshold":
                later = weight > threshold
            else:
                later = uniform < weight / threshold
            # Without TensorFlow 2 behaviour, == compares tensors by identity.
            return tf.where(tf.equal(rank, 0) | later, demand, tf.zeros_like(demand))

        return mtf.slicewise(decide, inputs, output_dtype=tf.float32, grad_function=0,
                             splittable_dims=weight.shape.dims, name="later_choice_policy")

    def __repr__(self) -> str:
        return f"TopKRouter(k={self.k})"


def _policy(where: str, field: str, value: str) -> str:
    if value not in POLICIES:
        raise ValueError(
            f"{where}: {field} is {value!r}; it must be one of {', '.join(POLICIES)}")
    return value


def _best_experts(
    scores: Scores, importance: mtf.Tensor, k: int, choice_dim: mtf.Dimension
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """(expert int32, rank int32, demand float32), each [..., S, K].

    Ties go to the expert of lower number.
    """
    rounds = choice_dim.size

    def pick(probabilities: tf.Tensor, importance: tf.Tensor) -> tuple[tf.Tensor, ...]:
        best = _argmax_k(probabilities, k)
        full = tf.equal(importance, 1.0)
        partial = (importance > 0) & ~full
        expert, rank, demand = [], [], []
        for number in range(rounds):
            is_choice = number < k
            own = best[min(number, k - 1)]
            expert.append(tf.where(partial, best[0], own))
            rank.append(tf.where(partial, tf.zeros_like(own), tf.fill(tf.shape(own), number)))
            # Partial tokens wait for the second round.
            late = partial if number == 1 else tf.zeros_like(partial)
            demand.append(tf.cast(full | late if is_choice else late, tf.float32))
        return tuple(tf.stack(each, axis=-1) for each in (expert, rank, demand))

    groups = importance.shape.dims[:-1]
    shape = mtf.Shape(importance.shape.dims + [choice_dim])
    return mtf.slicewise(
        pick, [scores.probabilities, importance], output_shape=[shape] * 3,
        output_dtype=[tf.int32, tf.int32, tf.float32], splittable_dims=groups,
        grad_function=0, name="best_experts")


def _argmax_k(probabilities: tf.Tensor, k: int) -> list[tf.Tensor]:
    """The k largest along the last axis, as k int32 tensors; k passes, since sorting is slow."""
    best = []
    for _ in range(k):
        best.append(tf.argmax(probabilities, axis=-1, output_type=tf.int32))
        taken = tf.one_hot(best[-1], probabilities.shape[-1], dtype=tf.bool, on_value=True,
                           off_value=False)
        # Below any probability, so that one which is exactly 0 can still be chosen.
        probabilities = tf.where(taken, tf.fill(tf.shape(probabilities), -1.0), probabilities)
    return best
