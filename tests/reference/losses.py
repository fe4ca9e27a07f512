"""The losses of one level, from its groups."""

from __future__ import annotations

import numpy as np

from tests.reference.routing import Group
from tests.reference.specs import LevelSpec

# Tokens over which fractions and probabilities are counted together.
Pool = list[tuple[Group, int]]


def balance_loss(groups: list[Group], spec: LevelSpec) -> float:
    """How even first choices (or all) and probabilities of full tokens are."""
    if spec.router == "expert_choice":
        return 0.0 if spec.softmax_over == "experts" else _affinity_loss(groups, spec)
    terms = []
    for pool, places in _pools(groups, spec):
        count = np.zeros(spec.num_experts)
        probability = np.zeros(spec.num_experts)
        full = 0
        for group, t in pool:
            if group.importance[t] == 1.0:
                full += 1
                probability += group.share(t)
                for choice in group.choices[t]:
                    if spec.balance_choices == "all":
                        count[choice.expert] += 1 / spec.num_choices
                    elif choice.rank == 0:
                        count[choice.expert] += 1
        terms.append((full, places, float(count @ probability)))
    return _mean_of_pools(terms, spec)


def second_place_loss(groups: list[Group], spec: LevelSpec) -> float:
    """The same of second choices; a partial token's only choice counts as one."""
    terms = []
    for pool, places in _pools(groups, spec):
        asked = np.zeros(spec.num_experts)
        left_over = np.zeros(spec.num_experts)
        real = 0
        for group, t in pool:
            if group.importance[t] <= 0.0:
                continue
            real += 1
            left = group.probabilities[t].copy()
            if group.importance[t] == 1.0:
                left[group.choices[t][0].expert] = 0.0
                if len(group.choices[t]) > 1:
                    asked[group.choices[t][1].expert] += 1
            else:
                asked[group.choices[t][0].expert] += 1
            # The one-expert level has nothing left over.
            left_over += left / (left.sum() + 1e-9)
        terms.append((real, places, float(asked @ left_over)))
    return _mean_of_pools(terms, spec)


def _pools(groups: list[Group], spec: LevelSpec) -> list[tuple[Pool, int]]:
    """(tokens, places) of each group, of each family, or of each example in a family."""
    pools: dict[object, Pool] = {}
    for number, group in enumerate(groups):
        for t, example in enumerate(group.examples):
            key: object = {
                "group": number,
                "batch": group.family,
                "example": (group.family, example),
            }[spec.balance_over]
            pools.setdefault(key, []).append((group, t))
    return [(pool, len(pool)) for pool in pools.values()]


def _mean_of_pools(terms: list[tuple[int, int, float]], spec: LevelSpec) -> float:
    """Of (tokens, places, sum over experts of counts times probabilities)."""
    if spec.balance_mean_over == "tokens":
        total = sum(tokens for tokens, _, _ in terms)
        return spec.num_experts * sum(
            tokens / total * value / tokens**2 for tokens, _, value in terms if tokens
        )
    # As Mesh TensorFlow does.
    return spec.num_experts * float(np.mean([value / places**2 for _, places, value in terms]))


def _affinity_loss(groups: list[Group], spec: LevelSpec) -> float:
    """Mean over groups of n * sum over its n tokens of (mean affinity)^2.

    Either of full tokens, all groups alike, or of real ones, groups by their number.
    """
    if spec.balance_mean_over == "tokens":
        total = sum(len(group.real()) for group in groups)
        return sum(
            len(g.real()) ** 2 * sum(g.affinity[t].mean() ** 2 for t in g.real()) for g in groups
        ) / max(total, 1)
    return float(
        np.mean(
            [
                len(group.full()) * sum(group.affinity[t].mean() ** 2 for t in group.full())
                for group in groups
            ]
        )
    )


def z_loss(groups: list[Group]) -> float:
    """Mean over full tokens of logsumexp(logits)^2."""
    values = []
    for group in groups:
        for t in group.full():
            top = group.logits[t].max()
            values.append((top + np.log(np.sum(np.exp(group.logits[t] - top)))) ** 2)
    return float(np.mean(values)) if values else 0.0
