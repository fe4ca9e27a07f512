"""The final names of the metrics, from the groups themselves."""

from __future__ import annotations

import re

import numpy as np

from tests.reference.layer import Reference, Result
from tests.reference.routing import Group
from tests.reference.specs import Family, LevelSpec

# Names that only `metrics="full"` has.
FULL_ONLY = re.compile(r"/(entropy|fraction_routed_rank_\d+|gate_mean_rank_\d+|load_\d+)$")


def share_in_use(result: Result) -> float:
    """Of the groups of the first level, those that hold a token at all."""
    return float(np.mean([bool(group.real()) for group in result.groups[0]]))


def level_names(spec: LevelSpec, groups: list[Group], in_use: float) -> dict[str, float]:
    full = sum(len(g.full()) for g in groups)
    real = sum(len(g.real()) for g in groups)
    placed = [c for g in groups for each in g.choices for c in each if c.position is not None]
    left = sum(all(c.position is None for c in g.choices[t]) for g in groups for t in g.real())
    slots = sum(g.capacity * spec.num_experts for g in groups)
    named = {
        "fraction_arrivals_dropped": left / real if real else 0.0,
        "expert_usage": len(placed) / (slots * in_use) if in_use else 0.0,
        "router_confidence": sum(c.given for c in placed) / len(placed) if placed else 0.0,
        "entropy": sum(_entropy(g.share(t)) for g in groups for t in g.full()) / max(full, 1),
    }
    for rank in range(1 if spec.router == "expert_choice" else spec.num_choices):
        of_rank = [c for g in groups for t in g.full() for c in g.choices[t] if c.rank == rank]
        named[f"fraction_routed_rank_{rank}"] = sum(c.position is not None for c in of_rank) / max(
            full, 1
        )
        named[f"gate_mean_rank_{rank}"] = sum(c.weight for c in of_rank) / max(full, 1)
    families = sorted({g.family for g in groups})
    loads = [load_of(groups, family, spec.num_experts) for family in families]
    named.update(load_names(loads))
    total = sum(sum(load) for load in loads)
    for e in range(spec.num_experts):
        named[f"load_{e}"] = sum(load[e] for load in loads) / max(total, 1)
    return named


def _entropy(probabilities: np.ndarray) -> float:
    return -sum(p * np.log(p) for p in probabilities if p > 0)


def load_of(groups: list[Group], family: Family, num_experts: int) -> list[int]:
    """Demand for each expert of a family, before policy and capacity."""
    load = [0] * num_experts
    for group in groups:
        if group.family == family:
            for each in group.choices:
                for choice in each:
                    load[choice.expert] += 1
    return load


def load_names(loads: list[list[int]]) -> dict[str, float]:
    """Imbalance (max / mean within a family, families weighted by load) and the dead."""
    total = sum(sum(load) for load in loads)
    imbalance = 1.0
    if total:
        imbalance = (
            sum(max(load) / (sum(load) / len(load)) * sum(load) for load in loads if sum(load))
            / total
        )
    return {
        "load_imbalance": imbalance,
        "max_violation": imbalance - 1.0,
        "dead_experts": float(sum(value == 0 for load in loads for value in load)),
    }


def final_names(
    reference: Reference, result: Result, importance: np.ndarray, full: bool = True
) -> dict[str, float]:
    """All names of one layer, from end to end and by level; `full`: or the brief ones."""
    named = {}
    specs = reference.specs
    real = np.asarray(importance) > 0
    lost = real & (result.reached[..., 0] == 0)
    for depth, (spec, groups) in enumerate(zip(specs, result.groups)):
        for name, value in level_names(spec, groups, share_in_use(result)).items():
            named[f"{spec.name}/{name}"] = value
        named[f"{spec.name}/fraction_tokens_dropped"] = float(
            np.sum(lost & (result.reached[..., 2] == depth)) / max(1, real.sum())
        )
        named[f"{spec.name}/auxiliary_loss"] = result.raw_losses[f"{spec.name}/balance"]
        named[f"{spec.name}/router_z_loss"] = result.raw_losses[f"{spec.name}/z"]
        if spec.second_place:
            named[f"{spec.name}/second_place_loss"] = result.raw_losses[f"{spec.name}/second_place"]
        named[f"{spec.name}/weighted_loss"] = sum(
            value for name, value in result.losses.items() if name.startswith(spec.name + "/")
        )
    for name in ("auxiliary_loss", "router_z_loss"):
        named[name] = float(np.mean([named[f"{spec.name}/{name}"] for spec in specs]))
    named["weighted_loss"] = result.loss
    filled = result.reached[..., 0].sum()
    named["fraction_tokens_left_behind"] = float(lost.sum() / max(1, real.sum()))
    slots = result.innermost_slots * share_in_use(result)
    named["expert_usage"] = filled / slots if slots else 0.0
    named["router_confidence"] = result.reached[..., 1].sum() / filled if filled else 0.0
    innermost = result.groups[-1]
    everyone = [
        value
        for family in sorted({g.family for g in innermost})
        for value in load_of(innermost, family, specs[-1].num_experts)
    ]
    named.update(load_names([everyone]))
    return {name: value for name, value in named.items() if full or not FULL_ONLY.search(name)}
