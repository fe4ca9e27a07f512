"""Who goes where in one group: choices of tokens, choices of experts, places."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.reference.gate import gumbel, softmax
from tests.reference.specs import Family, LevelSpec, Numbers


@dataclasses.dataclass
class Choice:
    """One choice of one token.

    Attributes:
      expert: the one that was asked for.
      rank: of the choice.
      weight: of the expert that was asked for.
      wanted: whether policy left it.
      position: in the buffer of the expert that took the token, if one did.
      taken_by: that expert; another one than asked for after a retry.
      given: its weight.
    """

    expert: int
    rank: int
    weight: float
    wanted: bool = True
    position: int | None = None
    taken_by: int | None = None
    given: float = 0.0


@dataclasses.dataclass
class Group:
    """All that happened in one group of one level.

    Attributes:
      examples: the example of each token; None in an empty place.
      affinity: of expert choice, [token, expert].
      margins: how near each decision was to another one.
    """

    family: Family
    importance: list[float]
    examples: list[Any]
    logits: np.ndarray
    probabilities: np.ndarray
    capacity: int
    choices: list[list[Choice]] = dataclasses.field(default_factory=list)
    affinity: np.ndarray | None = None
    margins: list[float] = dataclasses.field(default_factory=list)

    def full(self) -> list[int]:
        return [t for t, value in enumerate(self.importance) if value == 1.0]

    def real(self) -> list[int]:
        return [t for t, value in enumerate(self.importance) if value > 0.0]

    def share(self, t: int) -> np.ndarray:
        """The probabilities of a token, so that they add up to one."""
        return self.probabilities[t] / self.probabilities[t].sum()


def best_first(values: Sequence[float]) -> list[int]:
    """Indices by value; ties go to the lower one."""
    return sorted(range(len(values)), key=lambda e: (-values[e], e))


def route(group: Group, spec: LevelSpec, bias: np.ndarray, numbers: Numbers) -> None:
    """Fills in the choices of a group."""
    if spec.router == "expert_choice":
        experts_choose(group, spec)
        return
    ranked = [_rank(group, spec, bias, numbers, t) for t in range(len(group.importance))]
    group.choices = [choose(order, group, spec, numbers, t) for t, order in enumerate(ranked)]
    place(group, spec, ranked)


def _rank(group: Group, spec: LevelSpec, bias: np.ndarray, numbers: Numbers, t: int) -> list[int]:
    """All experts, in the order in which a token would take them."""
    if spec.router == "uniform":
        return [(t * spec.num_choices + e) % spec.num_experts for e in range(spec.num_experts)]
    preference = group.probabilities[t] + bias
    order = best_first(preference)
    sampled = []
    margins = []
    if spec.selection == "sample":
        drawn = group.logits[t] / spec.temperature + gumbel(numbers("sample")[t])
        first, second = best_first(drawn)[:2]
        margins.append(drawn[first] - drawn[second])
        # What comes after the sampled expert goes by preference.
        sampled = [first]
        order = [e for e in order if e != first]
    tried = (spec.num_choices if group.importance[t] == 1.0 else 1) + spec.retries - len(sampled)
    values = [preference[e] for e in order]
    margins += [values[r] - values[r + 1] for r in range(min(tried, len(order) - 1))]
    if group.importance[t] > 0.0:
        group.margins += margins
    return sampled + order


def choose(
    ranked: list[int], group: Group, spec: LevelSpec, numbers: Numbers, t: int
) -> list[Choice]:
    """The choices of one token, best first."""
    importance, probabilities = group.importance[t], group.probabilities[t]
    if importance <= 0.0:
        return []
    chosen = ranked[: spec.num_choices if importance == 1.0 else 1]
    divisor = norm_of([probabilities[e] for e in chosen], spec)
    choices = []
    for rank, expert in enumerate(chosen):
        choice = Choice(expert, rank, probabilities[expert] / divisor)
        if rank > 0 and spec.policy == "none":
            choice.wanted = False
        elif rank > 0 and spec.policy == "threshold":
            choice.wanted = choice.weight > spec.threshold
            group.margins.append(abs(choice.weight - spec.threshold))
        elif rank > 0 and spec.policy == "random":
            # One number for each token and choice, under no name.
            draw = numbers("")[t, rank]
            choice.wanted = draw < choice.weight / spec.threshold
            group.margins.append(abs(draw - choice.weight / spec.threshold))
        choices.append(choice)
    return choices


def norm_of(chosen: Sequence[float], spec: LevelSpec) -> float:
    """What the probabilities of the chosen are divided by."""
    if not spec.normalised:
        return 1.0
    return sum(p**spec.weight_norm for p in chosen) ** (1.0 / spec.weight_norm)


def place(group: Group, spec: LevelSpec, ranked: list[list[int]]) -> None:
    """Gives choices their positions, round by round and in each token by token.

    The only choice of a partial token waits for the second round. After all rounds
    those that found no room try the further experts of the token, one a round.
    """
    filled = [0] * spec.num_experts
    k = spec.num_choices
    tokens = _in_turn(group, spec)

    def offer(choice: Choice, expert: int, weight: float) -> None:
        if filled[expert] < group.capacity:
            choice.position, choice.taken_by, choice.given = filled[expert], expert, weight
            filled[expert] += 1

    for number in range(max(k, 2)):
        for t in tokens:
            for choice in group.choices[t]:
                its_round = choice.rank if group.importance[t] == 1.0 else 1
                if its_round == number and choice.wanted:
                    offer(choice, choice.expert, choice.weight)
    for retry in range(min(spec.retries, spec.num_experts - k)):
        for t in tokens:
            waiting = [c for c in group.choices[t] if c.wanted and c.position is None]
            if waiting:
                own = [c.expert for c in group.choices[t]]
                expert = ranked[t][len(own) + retry]
                divisor = norm_of([group.probabilities[t][e] for e in own], spec)
                offer(waiting[0], expert, group.probabilities[t][expert] / divisor)


def _in_turn(group: Group, spec: LevelSpec) -> list[int]:
    """The tokens in the order in which they are placed."""
    tokens = [t for t, choices in enumerate(group.choices) if choices]
    if not spec.priority:
        return tokens
    first = [group.probabilities[t][group.choices[t][0].expert] for t in tokens]
    order = best_first(first)
    values = [first[i] for i in order]
    group.margins += [a - b for a, b in zip(values, values[1:])]
    return [tokens[i] for i in order]


def experts_choose(group: Group, spec: LevelSpec) -> None:
    """Every expert takes the tokens of highest affinity; all choices have rank 0."""
    real = group.real()
    group.choices = [[] for _ in group.importance]
    group.affinity = np.zeros(group.logits.shape)
    for expert in range(spec.num_experts):
        if spec.softmax_over == "experts":
            column = group.probabilities[real, expert]
        else:
            column = softmax(group.logits[real, expert]) if real else np.zeros(0)
        group.affinity[real, expert] = column
        order = best_first(column)
        values = [column[i] for i in order]
        group.margins += [a - b for a, b in zip(values[: group.capacity], values[1:])]
        for position, i in enumerate(order[: group.capacity]):
            group.choices[real[i]].append(
                Choice(expert, 0, column[i], True, position, expert, column[i])
            )
    if spec.softmax_over == "tokens":
        for choices in group.choices:
            for choice in choices:
                choice.weight = choice.given = choice.weight / len(choices)
