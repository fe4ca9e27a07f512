"""The oracle: a hierarchical mixture of experts as plain loops over tokens, in float64.

Written from the documents, not from the package; it knows no meshes and no tensors.
A stream is the sequence of places that a level divides into groups: at the first
level one for each outer batch, further in one for each expert chosen above. A family
is the tuple of the experts chosen above, outermost first.
"""
from __future__ import annotations

import dataclasses
import math
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

Family = Tuple[int, ...]


@dataclasses.dataclass
class LevelSpec:
    """What the oracle needs to know of a level, for training or for evaluation."""

    name: str
    num_experts: int
    k: int
    policy: str
    threshold: float
    group_size: int
    capacity_factor: float
    min_capacity: int
    weight_norm: Optional[float] = 1.0
    balance_coef: float = 0.01
    z_coef: float = 0.0
    second_place: bool = False


@dataclasses.dataclass
class Choice:
    """One choice of one token."""

    expert: int
    rank: int
    weight: float
    wanted: bool
    position: Optional[int] = None


@dataclasses.dataclass
class Group:
    """All that happened in one group of one level."""

    family: Family
    importance: List[float]
    logits: np.ndarray
    probabilities: np.ndarray
    choices: List[List[Choice]]
    capacity: int

    def full(self) -> List[int]:
        return [t for t, value in enumerate(self.importance) if value == 1.0]

    def real(self) -> List[int]:
        return [t for t, value in enumerate(self.importance) if value > 0.0]


@dataclasses.dataclass
class Result:
    """What the oracle returns; `groups` has a list for each level."""

    outputs: np.ndarray
    losses: Dict[str, float]
    raw_losses: Dict[str, float]
    groups: List[List[Group]]
    reached: np.ndarray  # [stream, token, 2]: slots filled, sum of products of weights
    innermost_slots: int

    @property
    def loss(self) -> float:
        return sum(self.losses.values())


def largest_divisor(number: int, at_most: int) -> int:
    return max(d for d in range(1, min(number, at_most) + 1) if number % d == 0)


def softmax(logits: np.ndarray) -> np.ndarray:
    values = np.exp(logits - logits.max())
    return values / values.sum()


def best_first(probabilities: np.ndarray) -> List[int]:
    """Experts by probability; ties go to the lower number."""
    return sorted(range(len(probabilities)), key=lambda e: (-probabilities[e], e))


def choose(
    probabilities: np.ndarray,
    importance: float,
    spec: LevelSpec,
    uniform: Callable[[int], float],
) -> List[Choice]:
    """The choices of one token, best first."""
    if importance <= 0.0:
        return []
    k = min(spec.k, spec.num_experts)
    order = best_first(probabilities)[:k if importance == 1.0 else 1]
    chosen = [probabilities[e] for e in order]
    norm = 1.0
    if k > 1 and spec.weight_norm is not None:
        norm = sum(p ** spec.weight_norm for p in chosen) ** (1.0 / spec.weight_norm)
    choices = []
    for rank, (expert, probability) in enumerate(zip(order, chosen)):
        weight = probability / norm
        wanted = rank == 0 or {
            "all": lambda w, r: True,
            "none": lambda w, r: False,
            "threshold": lambda w, r: w > spec.threshold,
            "random": lambda w, r: uniform(r) < w / spec.threshold,
        }[spec.policy](weight, rank)
        choices.append(Choice(expert, rank, weight, wanted))
    return choices


def place(
    choices: List[List[Choice]], importance: Sequence[float], num_experts: int, capacity: int
) -> None:
    """Gives choices their positions, round by round and in each in the order of tokens.

    The only choice of a partial token waits for the second round.
    """
    filled = [0] * num_experts
    for number in range(1 + max([1] + [c.rank for each in choices for c in each])):
        for token, each in enumerate(choices):
            for choice in each:
                its_round = choice.rank if importance[token] == 1.0 else 1
                if its_round == number and choice.wanted and filled[choice.expert] < capacity:
                    choice.position = filled[choice.expert]
                    filled[choice.expert] += 1


ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


def feed_forward(
    x: np.ndarray, weights: Dict[str, np.ndarray], activations: Sequence[str], at: Family,
    scope: str = "",
) -> np.ndarray:
    """One expert on one token; `at` indexes the leading dimensions of its variables."""

    def project(value: np.ndarray, name: str) -> np.ndarray:
        value = value @ weights[f"{scope}{name}/kernel"][at]
        bias = weights.get(f"{scope}{name}/bias")
        return value if bias is None else value + bias[at]

    hidden = 1.0
    for number, activation in enumerate(activations):
        name = "wi" if len(activations) == 1 else f"wi_{number}"
        hidden = hidden * ACTIVATIONS[activation](project(x, name))
    return project(hidden, "wo")


class Reference:
    """A layer: levels, weights by the names of the variables, experts."""

    def __init__(
        self,
        specs: Sequence[LevelSpec],
        weights: Dict[str, np.ndarray],
        activations: Sequence[str] = ("relu",),
        shared_activations: Optional[Sequence[str]] = None,
        uniforms: Optional[Dict[str, np.ndarray]] = None,
        drop_tokens: bool = True,
    ):
        self.specs = list(specs)
        self.weights = {name: np.asarray(w, np.float64) for name, w in weights.items()}
        self.activations = activations
        self.shared_activations = shared_activations
        self.uniforms = uniforms or {}
        self.drop_tokens = drop_tokens

    def __call__(self, x: np.ndarray, importance: np.ndarray) -> Result:
        """x [outer batch, tokens, depth], importance [outer batch, tokens]."""
        x = np.asarray(x, np.float64)
        self._groups: List[List[Group]] = [[] for _ in self.specs]
        self._slots = 0
        streams = [[np.array(v) for v in stream] for stream in x]
        outputs, reached = self._level(0, (), streams, [list(i) for i in importance])
        outputs = np.array(outputs)
        if self.shared_activations:
            for a, stream in enumerate(x):
                for t, token in enumerate(stream):
                    if importance[a][t] > 0:
                        outputs[a, t] += feed_forward(
                            token, self.weights, self.shared_activations, (), "shared/")
        raw, weighted = self._losses()
        return Result(outputs, weighted, raw, self._groups, np.array(reached), self._slots)

    def _kernel(self, depth: int, family: Family) -> np.ndarray:
        if len(self.specs) == 1:
            name = "top_2_gating" if self.specs[0].k == 2 else "top_n_gating"
        else:
            name = ("outer_gating", "inner_gating", "level_2_gating")[depth]
        return self.weights[f"{name}/kernel"][tuple(reversed(family))]

    def _uniform(self, depth, family, stream, group, token) -> Callable[[int], float]:
        """Random numbers of a level: [*experts above innermost first, (A), G, S, K]."""
        def draw(rank: int) -> float:
            where = tuple(reversed(family)) + ((stream,) if depth == 0 else ())
            return self.uniforms[self.specs[depth].name][where + (group, token, rank)]
        return draw

    def _level(self, depth: int, family: Family, streams, importances):
        """Outputs and what was reached, for every place of every stream."""
        spec = self.specs[depth]
        size = largest_divisor(len(streams[0]), spec.group_size)
        capacity = min(size, max(
            spec.min_capacity, math.floor(size * spec.capacity_factor / spec.num_experts)))
        if not self.drop_tokens:
            capacity = size
        kernel = self._kernel(depth, family)
        depth_in = kernel.shape[0]
        # What each expert receives from all streams and groups, in their order.
        sent = [[] for _ in range(spec.num_experts)]
        origin = [[] for _ in range(spec.num_experts)]
        for a, stream in enumerate(streams):
            for g in range(len(stream) // size):
                group = self._route(depth, family, a, g, stream[g * size:(g + 1) * size],
                                    importances[a][g * size:(g + 1) * size], kernel, capacity)
                self._groups[depth].append(group)
                for e in range(spec.num_experts):
                    slots = [(np.zeros(depth_in), 0.0)] * capacity
                    came_from = [None] * capacity
                    for t, choices in enumerate(group.choices):
                        for choice in choices:
                            if choice.expert == e and choice.position is not None:
                                further = group.importance[t] * (1.0 if choice.rank == 0 else 0.5)
                                slots[choice.position] = (stream[g * size + t], further)
                                came_from[choice.position] = (a, g * size + t, choice.weight)
                    sent[e] += slots
                    origin[e] += came_from
        outputs, reached = None, [[np.zeros(2) for _ in stream] for stream in streams]
        for e in range(spec.num_experts):
            back, deeper = self._expert(depth, family + (e,), sent[e], origin[e])
            for place, vector, below in zip(origin[e], back, deeper):
                if outputs is None:
                    outputs = [[np.zeros(len(vector)) for _ in stream] for stream in streams]
                if place is not None:
                    a, t, weight = place
                    outputs[a][t] += weight * vector
                    reached[a][t] += np.array([below[0], weight * below[1]])
        return outputs, reached

    def _expert(self, depth: int, family: Family, sent, origin):
        if depth + 1 < len(self.specs):
            outputs, reached = self._level(
                depth + 1, family, [[v for v, _ in sent]], [[i for _, i in sent]])
            return outputs[0], reached[0]
        self._slots += len(sent)
        at = tuple(reversed(family))
        outputs = [feed_forward(v, self.weights, self.activations, at) for v, _ in sent]
        return outputs, [np.array([1.0, 1.0]) for _ in origin]

    def _route(self, depth, family, a, g, tokens, importance, kernel, capacity) -> Group:
        spec = self.specs[depth]
        logits = np.array([token @ kernel for token in tokens])
        probabilities = np.array([softmax(row) for row in logits])
        choices = [
            choose(probabilities[t], importance[t], spec, self._uniform(depth, family, a, g, t))
            for t in range(len(tokens))]
        place(choices, importance, spec.num_experts, capacity)
        return Group(family, list(importance), logits, probabilities, choices, capacity)

    def _losses(self):
        raw, weighted = {}, {}
        for spec, groups in zip(self.specs, self._groups):
            raw[f"{spec.name}/balance"] = balance_loss(groups, spec.num_experts)
            raw[f"{spec.name}/z"] = z_loss(groups)
            weighted[f"{spec.name}/balance"] = spec.balance_coef * raw[f"{spec.name}/balance"]
            weighted[f"{spec.name}/z"] = spec.z_coef * raw[f"{spec.name}/z"]
            if spec.second_place:
                raw[f"{spec.name}/second_place"] = second_place_loss(groups, spec.num_experts)
                weighted[f"{spec.name}/second_place"] = (
                    0.5 * spec.balance_coef * raw[f"{spec.name}/second_place"])
        return raw, weighted


def balance_loss(groups: List[Group], num_experts: int) -> float:
    """num_experts^2 * mean(share of the group chosen first * mean probability), full tokens."""
    total = 0.0
    for group in groups:
        size = len(group.importance)
        for e in range(num_experts):
            first = sum(group.choices[t][0].expert == e for t in group.full())
            probability = sum(group.probabilities[t][e] for t in group.full())
            total += (first / size) * (probability / size)
    return num_experts ** 2 * total / (len(groups) * num_experts)


def second_place_loss(groups: List[Group], num_experts: int) -> float:
    """The same of second choices; a partial token's only choice counts as one."""
    total = 0.0
    for group in groups:
        size = len(group.importance)
        asked = np.zeros(num_experts)
        proxy = np.zeros(num_experts)
        for t in group.real():
            left = group.probabilities[t].copy()
            if group.importance[t] == 1.0:
                left[group.choices[t][0].expert] = 0.0
                if len(group.choices[t]) > 1:
                    asked[group.choices[t][1].expert] += 1
            else:
                asked[group.choices[t][0].expert] += 1
            # The one-expert level has nothing left over.
            proxy += left / (left.sum() + 1e-9)
        total += float(np.sum(asked / size * proxy / size))
    return num_experts ** 2 * total / (len(groups) * num_experts)


def z_loss(groups: List[Group]) -> float:
    """Mean over full tokens of logsumexp(logits)^2."""
    values = [np.log(np.sum(np.exp(group.logits[t]))) ** 2 for group in groups
              for t in group.full()]
    return float(np.mean(values)) if values else 0.0


def level_names(spec: LevelSpec, groups: List[Group]) -> Dict[str, float]:
    """The final names of one level, from the groups themselves."""
    full = sum(len(g.full()) for g in groups)
    real = sum(len(g.real()) for g in groups)
    placed = [c for g in groups for each in g.choices for c in each if c.position is not None]
    left = sum(all(c.position is None for c in g.choices[t]) for g in groups for t in g.real())
    slots = sum(g.capacity * spec.num_experts for g in groups)
    named = {
        "fraction_tokens_left_behind": left / real if real else 0.0,
        "expert_usage": len(placed) / slots,
        "router_confidence": sum(c.weight for c in placed) / len(placed) if placed else 0.0,
        "entropy": sum(float(-np.sum(g.probabilities[t] * np.log(g.probabilities[t])))
                       for g in groups for t in g.full()) / full if full else 0.0,
    }
    for rank in range(min(spec.k, spec.num_experts)):
        of_rank = [c for g in groups for t in g.full() for c in g.choices[t] if c.rank == rank]
        named[f"fraction_routed_rank_{rank}"] = (
            sum(c.position is not None for c in of_rank) / full if full else 0.0)
        named[f"gate_mean_rank_{rank}"] = sum(c.weight for c in of_rank) / full if full else 0.0
    families = sorted({g.family for g in groups})
    named.update(load_names([load_of(groups, family, spec.num_experts) for family in families]))
    return named


def load_of(groups: List[Group], family: Family, num_experts: int) -> List[int]:
    """Demand for each expert of a family, before policy and capacity."""
    load = [0] * num_experts
    for group in groups:
        if group.family == family:
            for each in group.choices:
                for choice in each:
                    load[choice.expert] += 1
    return load


def load_names(loads: List[List[int]]) -> Dict[str, float]:
    """Imbalance (max / mean within a family, families weighted by load) and the dead."""
    total = sum(sum(load) for load in loads)
    imbalance = 1.0
    if total:
        imbalance = sum(max(load) / (sum(load) / len(load)) * sum(load)
                        for load in loads if sum(load)) / total
    return {"load_imbalance": imbalance, "max_violation": imbalance - 1.0,
            "dead_experts": float(sum(value == 0 for load in loads for value in load))}


def final_names(reference: Reference, result: Result, importance: np.ndarray) -> Dict[str, float]:
    """All names of one layer, from end to end and by level."""
    named = {}
    specs = reference.specs
    for spec, groups in zip(specs, result.groups):
        for name, value in level_names(spec, groups).items():
            named[f"{spec.name}/{name}"] = value
        named[f"{spec.name}/auxiliary_loss"] = result.raw_losses[f"{spec.name}/balance"]
        named[f"{spec.name}/router_z_loss"] = result.raw_losses[f"{spec.name}/z"]
        if spec.second_place:
            named[f"{spec.name}/second_place_loss"] = result.raw_losses[
                f"{spec.name}/second_place"]
        named[f"{spec.name}/weighted_loss"] = sum(
            value for name, value in result.losses.items() if name.startswith(spec.name + "/"))
    for name in ("auxiliary_loss", "router_z_loss"):
        named[name] = float(np.mean([named[f"{spec.name}/{name}"] for spec in specs]))
    named["weighted_loss"] = result.loss
    real = np.asarray(importance) > 0
    filled = result.reached[..., 0].sum()
    named["fraction_tokens_left_behind"] = (
        float(np.sum(real & (result.reached[..., 0] == 0)) / max(1, real.sum())))
    named["expert_usage"] = filled / result.innermost_slots
    named["router_confidence"] = result.reached[..., 1].sum() / filled if filled else 0.0
    innermost = result.groups[-1]
    everyone = [value for family in sorted({g.family for g in innermost})
                for value in load_of(innermost, family, specs[-1].num_experts)]
    named.update(load_names([everyone]))
    return named


def smallest_margin(result: Result, specs: Sequence[LevelSpec]) -> float:
    """How near the routing is to another one: probabilities in order, and thresholds."""
    margins = [1.0]
    for spec, groups in zip(specs, result.groups):
        for group in groups:
            for t in group.real():
                p = np.sort(group.probabilities[t])[::-1]
                ranks = min(spec.k, spec.num_experts - 1)
                if group.importance[t] < 1.0:
                    ranks = min(1, spec.num_experts - 1)
                margins += [p[r] - p[r + 1] for r in range(ranks)]
                if spec.policy == "threshold":
                    margins += [abs(c.weight - spec.threshold) for c in group.choices[t][1:]]
    return float(min(margins))


def assert_not_easy(result: Result, specs: Sequence[LevelSpec], *, partial: bool,
                    padding: bool) -> None:
    """First choices, later ones and inner slots overflow; levels have two groups or more."""
    later = any(spec.k > 1 and spec.policy != "none" for spec in specs)
    for depth, (spec, groups) in enumerate(zip(specs, result.groups)):
        assert len([g for g in groups if g.family == groups[0].family]) >= 2, spec.name
        dropped = [c for g in groups for each in g.choices for c in each
                   if c.wanted and c.position is None]
        assert dropped, f"nothing overflows at {spec.name}"
        if depth == 0:
            assert any(c.rank == 0 for c in dropped), "no first choice overflows"
    everywhere = [c for groups in result.groups for g in groups for each in g.choices
                  for c in each if c.wanted and c.position is None]
    if later:
        assert any(c.rank > 0 for c in everywhere), "no later choice overflows"
    values = [i for g in result.groups[0] for i in g.importance]
    assert any(0 < i < 1 for i in values) == partial
    assert any(i == 0 for i in values) == padding
