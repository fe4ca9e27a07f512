"""What the losses and metric sums of a mixture layer multiply and send."""

from __future__ import annotations

from collections.abc import Sequence

from hmoe.plan.costs import BACKWARD, FORWARD, OTHER, Place
from hmoe.plan.layer_case import LayerCase
from hmoe.plan.layer_sizes import Dim, Dims, LevelSizes
from hmoe.plan.terms import FLOAT32, Terms

_FORWARD, _BACKWARD = Place(OTHER, "", FORWARD), Place(OTHER, "", BACKWARD)
_SCALAR: Dims = ()
# Sums over the tokens of a level, and over the groups of the first (`hmoe.layer.metric_sums`).
_TOKEN_FIELDS = {"brief": 6, "full": 7}
_FIELDS_BY_RANK = 2
_LAYER_FIELDS = 7


def add_losses(terms: Terms, case: LayerCase, level: LevelSizes) -> None:
    """Adds the losses of a level and their gradients, which stop at logits and probabilities.

    Args:
      terms: the terms to add to.
      case: the layer.
      level: the sizes of the level.
    """
    losses = _Losses(terms, case, level)
    losses.counted_tokens("full tokens")
    if level.case.router.experts_choose:
        losses.evenness()
    else:
        losses.balance("balance loss")
    losses.logits()
    if level.case.second_place_loss:
        losses.second_place()
    # The loss times its weight, for each kind.
    kinds = 3 if level.case.second_place_loss else 2
    terms.multiply(_FORWARD, f"{level.case.name}: loss sums", _SCALAR, kinds)


def add_metrics(terms: Terms, case: LayerCase, levels: Sequence[LevelSizes]) -> None:
    """Adds the metric sums of a layer, and the loads that balance biases move by."""
    for level in levels:
        router = level.case.router
        experts = level.experts.whole()
        if case.metrics != "off" or (router.moves_bias and case.train):
            load = (*level.outer_experts, experts)
            tokens = (*level.each_token, experts)
            terms.add_up(_FORWARD, f"{level.case.name}: load", tokens, load, once=True)
        if case.metrics != "off":
            ranks = 1 if router.experts_choose else level.num_choices
            width = _TOKEN_FIELDS[case.metrics]
            width += _FIELDS_BY_RANK * ranks if case.metrics == "full" else 0
            fields = Dim("fields", width)
            sums = (*level.outer_experts, fields)
            groups = (*level.leading, fields)
            terms.add_up(_FORWARD, f"{level.case.name}: token sums", groups, sums, once=True)
    if case.metrics != "off":
        _add_reached(terms, case, levels)
        fields = Dim("fields", _LAYER_FIELDS + len(levels))
        groups = (*levels[0].leading, fields)
        terms.add_up(_FORWARD, "layer sums", groups, (fields,), once=True)


def _add_reached(terms: Terms, case: LayerCase, levels: Sequence[LevelSizes]) -> None:
    """Adds what tells each token which slots it reached, from level to level outwards."""
    for below, level in enumerate(reversed(levels[:-1]), 2):
        fields, what = Dim("fields", below), f"{level.case.name}: slots that tokens reached"
        old, new = (*level.slots_of_experts, fields), (*level.slots_of_groups, fields)
        terms.relayout(_FORWARD, what, old, new, FLOAT32)
        if case.engine == "einsum":
            # All but the last number, then that by weight.
            moved = (*level.each_token, level.experts.whole(), level.capacity)
            terms.multiply(_FORWARD, what, (*moved, Dim("counts", below - 1)))
            terms.multiply(_FORWARD, what, moved)


class _Losses:
    """Adds the terms of the losses of one level."""

    def __init__(self, terms: Terms, case: LayerCase, level: LevelSizes):
        self._terms = terms
        self._case = case
        self._level = level
        self._name = level.case.name
        self._is_mean_of_tokens = level.case.balance_loss_mean_over == "tokens"
        self._balances = bool(level.case.balance_loss_coef) and case.train
        self._scores: Dims = (*level.each_token, level.experts.whole())

    def counted_tokens(self, what: str) -> None:
        """Adds the number of tokens that a loss is the mean of."""
        self._terms.add_up(_FORWARD, self._labelled(what), self._level.each_token, ())

    def balance(self, loss: str) -> None:
        """Adds the balance loss of tokens that choose: load times probability, in pools."""
        what, level = self._labelled(loss), self._level
        pools, members = self._pools()
        experts = level.experts.whole()
        tokens, scores = (*level.each_token, *members), (*self._scores, *members)
        of_experts = (*pools, experts)
        if members:
            self._terms.multiply(_FORWARD, what, scores)
        self._terms.add_up(_FORWARD, what, scores, of_experts)
        self._terms.einsum(_FORWARD, what, scores, of_experts)
        if self._balances:
            self._terms.multiply(_BACKWARD, what, scores)
            self._terms.multiply(_BACKWARD, what, of_experts)
        if not self._is_mean_of_tokens:
            self._terms.einsum(_FORWARD, what, of_experts, ())
            return
        # [*pools], the number of tokens, and the quotient; then both summed, and their quotient.
        if members:
            self._terms.multiply(_FORWARD, what, tokens)
        self._terms.add_up(_FORWARD, what, tokens, pools)
        self._terms.multiply(_FORWARD, what, of_experts)
        self._terms.multiply(_FORWARD, what, pools)
        for _ in range(2):
            self._terms.add_up(_FORWARD, what, pools, ())
        self._terms.multiply(_FORWARD, what, _SCALAR)
        if self._balances:
            self._terms.multiply(_BACKWARD, what, pools)
            self._terms.multiply(_BACKWARD, what, _SCALAR)

    def _pools(self) -> tuple[Dims, Dims]:
        """Returns the dimensions of pools, and those of them that tokens do not have."""
        level = self._level
        over = level.case.balance_loss_over
        if over == "group":
            return level.leading, ()
        if over == "batch":
            return level.outer_experts, ()
        example = Dim("E", self._case.outer_batch * self._case.batch)
        return (*level.outer_experts, example), (example,)

    def second_place(self) -> None:
        """Adds the balance loss of second choices, on what first choices left."""
        what, tokens = self._labelled("second-place loss"), self._level.each_token
        # Probabilities that are left, and their quotient by the sum.
        self._terms.multiply(_FORWARD, what, self._scores, 2)
        self.balance("second-place loss")
        self.counted_tokens("real tokens")
        if self._balances:
            self._terms.multiply(_BACKWARD, what, self._scores, 3)
            self._terms.multiply(_BACKWARD, what, tokens)

    def evenness(self) -> None:
        """Adds the loss of experts that choose by a softmax over tokens; others have none."""
        level = self._level
        if level.case.router.softmax_over != "tokens":
            return
        what, tokens, groups = self._labelled("evenness loss"), level.each_token, level.leading
        number = 2 if self._is_mean_of_tokens else 1
        self._terms.multiply(_FORWARD, what, tokens)
        self._terms.multiply(_FORWARD, what, groups, number)
        for _ in range(number):
            self._terms.add_up(_FORWARD, what, groups, ())
        if self._is_mean_of_tokens:
            self._terms.multiply(_FORWARD, what, _SCALAR)
        if self._balances:
            self._terms.multiply(_BACKWARD, what, _SCALAR, number - 1)
            self._terms.multiply(_BACKWARD, what, groups, number)
            self._terms.multiply(_BACKWARD, what, tokens, 2)
            # Of the softmax.
            self._terms.multiply(_BACKWARD, what, self._scores, 2)
            self._terms.multiply(_BACKWARD, what, (*groups, level.experts.whole()))

    def logits(self) -> None:
        """Adds the z-loss, which metrics show even where its coefficient is 0."""
        what, tokens = self._labelled("z-loss"), self._level.each_token
        self._terms.einsum(_FORWARD, what, tokens, ())
        self._terms.add_up(_FORWARD, what, tokens, ())
        self._terms.multiply(_FORWARD, what, _SCALAR)
        if self._level.case.z_loss_coef and self._case.train:
            self._terms.multiply(_BACKWARD, what, _SCALAR)
            self._terms.multiply(_BACKWARD, what, tokens, 3)
            self._terms.multiply(_BACKWARD, what, self._scores)

    def _labelled(self, what: str) -> str:
        return f"{self._name}: {what}"
