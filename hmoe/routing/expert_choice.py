"""Expert choice: every expert takes the tokens that suit it best."""

from __future__ import annotations

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.mesh.local_ops import indicator
from hmoe.routing import losses
from hmoe.routing.assignment import Assignment, Choices
from hmoe.routing.gate import EXCLUDED, Gate, Scores
from hmoe.routing.router import Router, RoutingContext

SOFTMAX_OVER = ("experts", "tokens")


class ExpertChoiceRouter(Router):
    """Fills each expert with the tokens of highest affinity (Zhou et al. 2022).

    A token can reach any number of experts, or none; buffers are full as long as there
    are tokens. A token's experts depend on the tokens after it, so a decoder refuses
    this router unless told otherwise.

    Attributes:
      softmax_over: "experts": the affinity is the token's probability, and so is the
        weight; there is no balance loss (TF Model Garden). "tokens": it is a softmax over
        the tokens of the group, and the weight is divided by the number of experts that
        took the token (Mesh TensorFlow's expert_selection).
      allow_in_decoder: whether a decoder may use it although training then sees tokens
        that decoding cannot. In decoding, where every expert has room for all, each token
        goes to every expert; over tokens, its weights then depend on its neighbours.
    """

    max_choices = None

    def __init__(
        self,
        *,
        softmax_over: str = "experts",
        allow_in_decoder: bool = False,
        gate: Gate | None = None,
    ):
        """Checks and keeps the settings; see the class for their meaning.

        Raises:
          ValueError: a setting is out of range, or does not suit the gate.
        """
        where = "ExpertChoiceRouter"
        super().__init__(gate=gate)
        self.softmax_over = checks.one_of(where, "softmax_over", softmax_over, SOFTMAX_OVER)
        self.allow_in_decoder = checks.boolean(where, "allow_in_decoder", allow_in_decoder)
        self.sees_later_tokens = not allow_in_decoder
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

    # Whose balance loss is its own, or none.
    has_balance_loss = False

    def num_ranks(self, num_experts: int) -> int:
        """Every choice is a first one."""
        return 1

    def variable_name(self) -> str:
        """Upstream's name."""
        return "expert_selection_gating"

    def assign(
        self,
        scores: Scores,
        importance: mtf.Tensor,
        capacity: int,
        capacity_name: str,
        context: RoutingContext,
    ) -> Assignment:
        """Every choice has rank 0: a token has one for each expert that took it."""
        choice_dim = mtf.Dimension("choice", scores.experts_dim.size)
        affinity = mtf.rename_dimension(
            self._affinity(scores, importance), scores.experts_dim.name, choice_dim.name
        )
        position = _best_tokens(affinity, importance, capacity)
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
        return Assignment(
            choices, expert, position, kept, weight, mtf.Dimension(capacity_name, capacity)
        )

    def _affinity(self, scores: Scores, importance: mtf.Tensor) -> mtf.Tensor:
        """float32 [..., S, X]."""
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
        choices: str,
    ) -> mtf.Tensor:
        """0 over experts, whose buffers are full; over tokens, how unevenly they are taken."""
        if self.softmax_over == "experts":
            return mtf.zeros(importance.mesh, mtf.Shape([]), dtype=tf.float32)
        mean_over = "tokens" if pool.num_positions is None else "positions"
        return losses.even_attention_loss(
            self._affinity(scores, importance), scores, importance, mean_over
        )

    def __repr__(self) -> str:
        return f"ExpertChoiceRouter(softmax_over={self.softmax_over!r})"


def _best_tokens(affinity: mtf.Tensor, importance: mtf.Tensor, capacity: int) -> mtf.Tensor:
    """int32 [..., S, X]: the slot of each token at each expert, by affinity, or -1."""

    def order(affinity: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
        real = (importance > 0)[..., None, :]
        # [..., X, S]; affinities are above -1, so padding comes last.
        by_expert = tf.linalg.matrix_transpose(affinity)
        by_expert = tf.where(
            tf.broadcast_to(real, tf.shape(by_expert)), by_expert, -tf.ones_like(by_expert)
        )
        # The order of the order is the place of each token in it; ties go to the earlier.
        best_first = tf.argsort(by_expert, axis=-1, direction="DESCENDING", stable=True)
        place = tf.argsort(best_first, axis=-1, stable=True)
        taken = (place < capacity) & tf.broadcast_to(real, tf.shape(place))
        return tf.linalg.matrix_transpose(tf.where(taken, place, -tf.ones_like(place)))

    return mtf.slicewise(
        order,
        [affinity, importance],
        output_shape=affinity.shape,
        output_dtype=tf.int32,
        splittable_dims=importance.shape.dims[:-1],
        grad_function=0,
        name="best_tokens",
    )
