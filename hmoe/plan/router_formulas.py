"""What the routers of a mixture layer multiply and send."""

from __future__ import annotations

from hmoe.plan.costs import BACKWARD, FORWARD, ROUTER, Place
from hmoe.plan.layer_case import LayerCase
from hmoe.plan.layer_sizes import Dim, Dims, LevelSizes
from hmoe.plan.terms import Terms


def add_router(terms: Terms, case: LayerCase, level: LevelSizes, depth_dim: Dim) -> None:
    """Adds the terms of the router of a level.

    Args:
      terms: the terms to add to.
      case: the layer.
      level: the sizes of the level.
      depth_dim: M.
    """
    formulas = _Router(terms, case, level, depth_dim)
    formulas.gate()
    if level.case.router.experts_choose:
        formulas.weights_of_experts()
    else:
        formulas.weights_of_tokens()


class _Router:
    """Adds the terms of one router."""

    def __init__(self, terms: Terms, case: LayerCase, level: LevelSizes, depth_dim: Dim):
        self._terms = terms
        self._case = case
        self._router = level.case.router
        self._sizes = level
        self._depth = depth_dim
        self._forward = Place(ROUTER, level.case.name, FORWARD)
        self._backward = Place(ROUTER, level.case.name, BACKWARD)
        # [..., S], [..., S, X], [..., S, K]
        self._tokens = level.each_token
        self._scores: Dims = (*self._tokens, level.experts.whole())
        self._chosen: Dims = (*self._tokens, level.choices)

    def gate(self) -> None:
        """Adds the projection to logits, and what stands before and behind it."""
        case, router = self._case, self._router
        disturbances = router.jitter + router.input_dropout
        if case.train and disturbances:
            self._both("random factors of inputs", (*self._tokens, self._depth), 1, 1, disturbances)
        self._project()
        if case.train and router.explores and self._sizes.experts.size > 1:
            self._both("exclusions", self._scores, 1, 0)
        self._gate_function()

    def _project(self) -> None:
        # [..., S, M], [*outer, M, X] -> [..., S, X]
        all_dims = (*self._scores, self._depth)
        outer, experts = self._sizes.outer_experts, self._sizes.experts.whole()
        self._terms.multiply(self._forward, "logits", all_dims)
        if not self._case.train:
            return
        self._terms.multiply(self._backward, "gradient of inputs", all_dims)
        kernel = (*outer, self._depth, experts)
        self._terms.einsum(self._backward, "gradient of the kernel", all_dims, kernel, once=True)
        if self._router.gate_bias:
            bias = (*outer, experts)
            self._terms.add_up(
                self._backward, "gradient of the bias", self._scores, bias, once=True
            )

    def _gate_function(self) -> None:
        level, router = self._sizes.case, self._router
        if router.gate_function == "softmax":
            reduced = self._tokens
            if router.experts_choose and router.softmax_over == "tokens":
                reduced = (*self._sizes.leading, self._sizes.experts.whole())
            self._both("softmax", self._scores, 0, 2)
            self._both("softmax", reduced, 0, 1)
            return
        self._both("sigmoid", self._scores, 0, 2)
        if not router.experts_choose or self._case.metrics == "full":
            self._both("shares", self._scores, 1, 0)
        if not router.experts_choose and level.balance_loss_coef:
            self._both("shares", self._scores, 0, 2)
            self._both("shares", self._tokens, 0, 1)

    def weights_of_experts(self) -> None:
        """Adds the weights of the tokens that experts chose, [..., S, K]."""
        number = 2 if self._router.softmax_over == "tokens" else 1
        self._both("weights of choices", self._chosen, 1, 1, number)

    def weights_of_tokens(self) -> None:
        """Adds the weights of the experts that tokens chose, [..., S, K]."""
        router, experts = self._router, self._sizes.experts.whole()
        norm = router.weight_norm if self._sizes.num_choices > 1 else None
        self._both("probabilities of choices", (*self._chosen, experts), 1, 1)
        if norm is not None:
            self._divide(norm)
        if router.priority:
            self._both("priorities", (*self._chosen, experts), 1, 0)
        if self._sizes.retries.size:
            self._fall_back(norm)
        self._both("weights of kept choices", self._chosen, 1, 1)

    def _divide(self, norm: float) -> None:
        # The quotient; it for full tokens, and 1 for partial ones.
        self._both("normalized weights", self._chosen, 3, 3)
        self._both("normalized weights", self._tokens, 0, 1)
        if norm != 1.0:
            # In units of the largest: quotients, powers, and the largest times the norm.
            self._both("p-norm of weights", self._chosen, 2, 5)
            self._both("p-norm of weights", self._tokens, 1, 5)

    def _fall_back(self, norm: float | None) -> None:
        # [..., S, R], R experts to fall back on.
        spare: Dims = (*self._tokens, self._sizes.retries)
        candidates = Dim(
            f"({self._sizes.choices.symbol} + {self._sizes.retries.symbol})",
            self._sizes.choices.size + self._sizes.retries.size,
        )
        self._both("probabilities of retries", (*spare, self._sizes.experts.whole()), 1, 1)
        if norm is not None:
            self._both("normalized weights of retries", spare, 1, 2)
            self._both("normalized weights of retries", self._tokens, 0, 1)
        self._both("weights of where choices went", (*self._chosen, candidates), 1, 1)

    def _both(self, what: str, dims: Dims, forward: int, backward: int, number: int = 1) -> None:
        """Adds so many products forward, and in training backward."""
        self._terms.multiply(self._forward, what, dims, forward * number)
        if self._case.train:
            self._terms.multiply(self._backward, what, dims, backward * number)
