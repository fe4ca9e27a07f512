"""Expert choice: every expert takes the tokens of highest affinity."""

from __future__ import annotations

from hmoe.compat.stack import mtf, tf
from hmoe.config import choice, configuration, switch
from hmoe.mesh.local_ops import indicator
from hmoe.routing import losses
from hmoe.routing.assignment import Assignment, Choices
from hmoe.routing.context import RoutingContext
from hmoe.routing.router import Router
from hmoe.routing.scores import EXCLUDED, Scores

SOFTMAX_OVER = ("experts", "tokens")


@configuration()
class ExpertChoiceRouter(Router):
    """Fills each expert with the tokens of highest affinity (Zhou et al. 2022).

    A token can reach any number of experts, or none; buffers are full as long as there are tokens.
    A token's experts depend on the tokens after it, so a decoder refuses this router unless
    `allow_in_decoder` is set.
    """

    softmax_over: str = choice(
        "experts",
        SOFTMAX_OVER,
        doc="""With "experts", the affinity is the token's probability, and so is the weight; there
        is no balance loss (TF Model Garden). With "tokens", the affinity is a softmax over the
        tokens of the group, and the weight is divided by the number of experts that took the token
        (Mesh TensorFlow's expert_selection).""",
        source="TF Model Garden: experts; Mesh TensorFlow `moe_gating` expert_selection: tokens",
    )
    allow_in_decoder: bool = switch(
        False,
        doc="""Whether a decoder may use the router although training then sees tokens that decoding
        cannot. In decoding every expert has room for all tokens, so each token goes to every
        expert; with a softmax over tokens, its weights then depend on its neighbors.""",
        source="hmoe",
    )

    def check_together(self) -> None:
        """Raises ValueError for a gate that does not suit experts that choose."""
        where = self.error_prefix()
        if self.softmax_over == "tokens" and self.gate.function != "softmax":
            raise ValueError(
                f"{where}: softmax_over is 'tokens', but its gate has function ="
                f" {self.gate.function!r}; use a softmax gate, or softmax_over = 'experts'"
            )
        if self.gate.explore_probability:
            raise ValueError(
                f"{where}: its gate has explore_probability = {self.gate.explore_probability}, but"
                " no token has a best expert here; set it to 0"
            )

    @property
    def max_choices(self) -> int | None:
        """A token can reach every expert."""
        return None

    @property
    def sees_later_tokens(self) -> bool:
        """A token's experts depend on the tokens after it."""
        return not self.allow_in_decoder

    @property
    def follows_scores(self) -> bool:
        """An expert whose softmax runs over tokens has probability for them, whatever it is."""
        return self.softmax_over == "experts"

    def highest_probability_at_least(self, weight: float, num_experts: int) -> float | None:
        """Returns the weight of a softmax over experts, which is a probability; else None."""
        del num_experts
        is_probability = self.follows_scores and self.gate.function == "softmax"
        return weight if is_probability else None

    @property
    def has_balance_loss(self) -> bool:
        """The router's balance loss is its own, or there is none."""
        return False

    def num_ranks(self, num_experts: int) -> int:
        """Returns 1: every choice is a first one."""
        return 1

    def variable_name(self) -> str:
        """Returns upstream's name."""
        return "expert_selection_gating"

    def assign(self, scores: Scores, importance: mtf.Tensor, context: RoutingContext) -> Assignment:
        """Lets experts choose; a token has a choice of rank 0 for each expert that took it."""
        choice_dim = mtf.Dimension("choice", scores.experts_dim.size)
        # [..., S, X] -> [..., S, K]
        affinity = mtf.rename_dimension(
            self._affinity(scores, importance), scores.experts_dim.name, choice_dim.name
        )
        position = _best_tokens(affinity, importance, context.capacity_dim.size)
        kept = indicator(tf.greater_equal, position, 0)
        weight = affinity * kept
        if self.softmax_over == "tokens":
            weight /= mtf.maximum(mtf.reduce_sum(kept, reduced_dim=choice_dim), 1.0)
        expert = mtf.broadcast(mtf.range(affinity.mesh, choice_dim, tf.int32), affinity.shape)
        choices = Choices(
            expert,
            weight,
            mtf.zeros_like(expert),
            kept,
            kept,
            scores.tokens_dim,
            choice_dim,
            scores.experts_dim,
            in_order=True,
        )
        return Assignment(choices, expert, position, kept, weight, context.capacity_dim)

    def _affinity(self, scores: Scores, importance: mtf.Tensor) -> mtf.Tensor:
        """Returns float32 [..., S, X]."""
        if self.softmax_over == "experts":
            return scores.probabilities
        padding = indicator(tf.less_equal, importance, 0.0)
        return mtf.softmax(scores.logits + padding * EXCLUDED, scores.tokens_dim)

    def balance_loss(
        self,
        scores: Scores,
        assignment: Assignment,
        importance: mtf.Tensor,
        pool: losses.Pool,
        counted: str,
    ) -> mtf.Tensor:
        """Returns the unevenness of a softmax over tokens; 0 over experts, with full buffers."""
        if self.softmax_over == "experts":
            return mtf.zeros(importance.mesh, mtf.Shape([]), dtype=tf.float32)
        mean_over = "tokens" if pool.num_positions is None else "positions"
        return losses.even_attention_loss(
            self._affinity(scores, importance), scores, importance, mean_over
        )


def _best_tokens(affinity: mtf.Tensor, importance: mtf.Tensor, capacity: int) -> mtf.Tensor:
    """Returns int32 [..., S, X]: the slot of each token at each expert, by affinity, or -1."""

    def slots(affinity: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
        # [..., S] -> [..., 1, S]
        real = (importance > 0)[..., None, :]
        # [..., S, X] -> [..., X, S]. Affinities are above -1, so padding comes last.
        by_expert = tf.linalg.matrix_transpose(affinity)
        by_expert = tf.where(
            tf.broadcast_to(real, tf.shape(by_expert)), by_expert, -tf.ones_like(by_expert)
        )
        # The order of the order is the rank of each token in it; ties go to the earlier token.
        best_first = tf.argsort(by_expert, axis=-1, direction="DESCENDING", stable=True)
        rank = tf.argsort(best_first, axis=-1, stable=True)
        taken = (rank < capacity) & tf.broadcast_to(real, tf.shape(rank))
        # [..., X, S] -> [..., S, X]
        return tf.linalg.matrix_transpose(tf.where(taken, rank, -tf.ones_like(rank)))

    return mtf.slicewise(
        slots,
        [affinity, importance],
        output_shape=affinity.shape,
        output_dtype=tf.int32,
        splittable_dims=importance.shape.dims[:-1],
        grad_function=0,
        name="best_tokens",
    )
