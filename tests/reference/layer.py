"""The recursion over levels, and the experts at its end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from tests.reference.gate import score
from tests.reference.losses import balance_loss, second_place_loss, z_loss
from tests.reference.routing import Group, route
from tests.reference.specs import Family, LevelSpec, Numbers, Place


@dataclasses.dataclass
class Result:
    """What the oracle returns; `groups` has a list for each level.

    Attributes:
      outputs: [stream, token, depth]; several outputs of an expert side by side.
      reached: [stream, token, 3]: innermost slots filled, sum of products of weights,
        and the deepest level at which the token arrived.
    """

    outputs: np.ndarray
    losses: dict[str, float]
    raw_losses: dict[str, float]
    groups: list[list[Group]]
    reached: np.ndarray
    innermost_slots: int

    @property
    def loss(self) -> float:
        return sum(self.losses.values())


def largest_divisor(number: int, at_most: int) -> int:
    return max(d for d in range(1, min(number, at_most) + 1) if number % d == 0)


def gating_name(specs: Sequence[LevelSpec], depth: int) -> str:
    """The scope of the gating variables of a level."""
    if len(specs) > 1:
        return ("outer_gating", "inner_gating", "level_2_gating")[depth]
    spec = specs[0]
    if spec.router == "switch":
        return (
            "switch_max_gating"
            if spec.priority
            else "ntlb_gating"
            if spec.retries
            else "switch_gating"
        )
    return {
        "top_k": "top_2_gating" if spec.k == 2 else "top_n_gating",
        "uniform": "uniform_gating",
        "expert_choice": "expert_selection_gating",
    }[spec.router]


ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


def feed_forward(
    x: np.ndarray,
    weights: dict[str, np.ndarray],
    activations: Sequence[str],
    at: Family,
    scope: str = "",
    outputs: Sequence[str] = ("wo",),
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
    return np.concatenate([project(hidden, name) for name in outputs])


class Reference:
    """A layer: levels, weights by the names of the variables, experts."""

    def __init__(
        self,
        specs: Sequence[LevelSpec],
        weights: dict[str, np.ndarray],
        activations: Sequence[str] = ("relu",),
        shared_activations: Sequence[str] | None = None,
        uniforms: dict[str, np.ndarray] | None = None,
        drop_tokens: bool = True,
        outputs: Sequence[str] = ("wo",),
    ):
        """Keeps the settings.

        Args:
          specs: levels, outermost first.
          weights: by the names of the variables.
          activations: of the experts.
          shared_activations: of the shared expert, if there is one.
          uniforms: random numbers by "<level>" (policy) or "<level>/<stream>".
          drop_tokens: False gives every expert room for its group.
          outputs: names of the last projections of the experts.
        """
        self.specs = list(specs)
        self.weights = {name: np.asarray(w, np.float64) for name, w in weights.items()}
        self.activations = activations
        self.shared_activations = shared_activations
        self.uniforms = uniforms or {}
        self.drop_tokens = drop_tokens
        self.outputs = outputs

    def __call__(
        self,
        x: np.ndarray,
        importance: np.ndarray,
        embeddings: np.ndarray | None = None,
        rows: int | None = None,
    ) -> Result:
        """Routes every token and applies the experts.

        Args:
          x: [stream, tokens, depth].
          importance: [stream, tokens].
          embeddings: [stream, tokens, depth].
          rows: examples in a stream; None: each token is one.
        """
        x = np.asarray(x, np.float64)
        embeddings = np.zeros_like(x) if embeddings is None else np.asarray(embeddings, np.float64)
        self._groups: list[list[Group]] = [[] for _ in self.specs]
        self._slots = 0
        self._deepest = np.zeros(x.shape[:2])
        self._depth = x.shape[-1]
        length = x.shape[1] // (rows or x.shape[1])
        self._num_examples = x.shape[0] * x.shape[1] // length
        streams = [
            [
                Place(x[a, t], embeddings[a, t], importance[a][t], (a, t // length), (a, t))
                for t in range(x.shape[1])
            ]
            for a in range(x.shape[0])
        ]
        outputs, reached = self._level(0, (), streams)
        outputs = np.array(outputs)
        if self.shared_activations:
            for a, stream in enumerate(streams):
                for t, token in enumerate(stream):
                    if token.importance > 0:
                        outputs[a, t] += feed_forward(
                            token.vector, self.weights, self.shared_activations, (), "shared/"
                        )
        reached = np.concatenate([reached, self._deepest[..., None]], axis=-1)
        raw, weighted = self._losses()
        return Result(outputs, weighted, raw, self._groups, reached, self._slots)

    def _level(self, depth: int, family: Family, streams: list[list[Place]]):
        """Outputs and what was reached, for every place of every stream."""
        spec = self.specs[depth]
        size, capacity = self._sizes(spec, streams)
        # What each expert receives from all streams and groups, in their order.
        sent: list[list[Place]] = [[] for _ in range(spec.num_experts)]
        origin: list[list] = [[] for _ in range(spec.num_experts)]
        for a, stream in enumerate(streams):
            for g in range(len(stream) // size):
                places = stream[g * size : (g + 1) * size]
                group = self._route(depth, family, a, g, places, capacity)
                self._groups[depth].append(group)
                for e in range(spec.num_experts):
                    slots = [self._empty() for _ in range(capacity)]
                    came_from: list = [None] * capacity
                    for t, choices in enumerate(group.choices):
                        for choice in choices:
                            if choice.taken_by == e:
                                further = places[t].importance * (1.0 if choice.rank == 0 else 0.5)
                                slots[choice.position] = dataclasses.replace(
                                    places[t], importance=further
                                )
                                came_from[choice.position] = (a, g * size + t, choice.given)
                    sent[e] += slots
                    origin[e] += came_from
        outputs, reached = None, np.zeros((len(streams), len(streams[0]), 2))
        for e in range(spec.num_experts):
            back, deeper = self._expert(depth, family + (e,), sent[e])
            for where, vector, below in zip(origin[e], back, deeper):
                if outputs is None:
                    outputs = np.zeros((len(streams), len(streams[0]), len(vector)))
                if where is not None:
                    a, t, weight = where
                    outputs[a, t] += weight * vector
                    reached[a, t] += np.array([below[0], weight * below[1]])
        return outputs, reached

    def _empty(self) -> Place:
        return Place(np.zeros(self._depth), np.zeros(self._depth))

    def _sizes(self, spec: LevelSpec, streams: list[list[Place]]) -> tuple[int, int]:
        """(group size, capacity)."""
        asked = spec.group_size
        if spec.examples_per_group is not None:
            places = len(streams) * len(streams[0])
            asked = max(
                1, round(Fraction(str(spec.examples_per_group)) * places / self._num_examples)
            )
        size = largest_divisor(len(streams[0]), asked)
        if not self.drop_tokens:
            return size, size
        return size, min(
            size,
            max(
                spec.min_capacity,
                math.floor(size * Fraction(str(spec.capacity_factor)) / spec.num_experts),
            ),
        )

    def _expert(self, depth: int, family: Family, sent: list[Place]):
        if depth + 1 < len(self.specs):
            outputs, reached = self._level(depth + 1, family, [sent])
            return outputs[0], reached[0]
        self._slots += len(sent)
        at = tuple(reversed(family))
        outputs = [
            feed_forward(place.vector, self.weights, self.activations, at, outputs=self.outputs)
            for place in sent
        ]
        return outputs, [np.array([1.0, 1.0]) for _ in sent]

    def _route(
        self, depth: int, family: Family, a: int, g: int, places: list[Place], capacity: int
    ) -> Group:
        spec, above = self.specs[depth], tuple(reversed(family))
        name = gating_name(self.specs, depth)

        def of_family(variable: str) -> np.ndarray | None:
            value = self.weights.get(f"{name}/{variable}")
            return None if value is None else value[above]

        for place in places:
            if place.importance > 0:
                self._deepest[place.origin] = max(depth, self._deepest[place.origin])
        numbers = self._numbers(spec.name, above + ((a,) if depth == 0 else ()) + (g,))
        margins: list[float] = []
        logits, probabilities = score(
            places, spec.gate, of_family("kernel"), of_family("bias"), numbers, margins
        )
        group = Group(
            family,
            [place.importance for place in places],
            [place.example for place in places],
            logits,
            probabilities,
            capacity,
            margins=margins,
        )
        balance_bias = of_family("balance_bias")
        route(group, spec, 0.0 if balance_bias is None else balance_bias, numbers)
        return group

    def _numbers(self, level: str, where: tuple[int, ...]) -> Numbers:
        """Random numbers of a level: [*experts above innermost first, (A), G, S, ...]."""

        def of(stream: str) -> np.ndarray:
            return self.uniforms[f"{level}/{stream}" if stream else level][where]

        return of

    def _losses(self) -> tuple[dict[str, float], dict[str, float]]:
        raw, weighted = {}, {}
        for spec, groups in zip(self.specs, self._groups):
            raw[f"{spec.name}/balance"] = balance_loss(groups, spec)
            raw[f"{spec.name}/z"] = z_loss(groups)
            weighted[f"{spec.name}/balance"] = spec.balance_coef * raw[f"{spec.name}/balance"]
            weighted[f"{spec.name}/z"] = spec.z_coef * raw[f"{spec.name}/z"]
            if spec.second_place:
                raw[f"{spec.name}/second_place"] = second_place_loss(groups, spec)
                weighted[f"{spec.name}/second_place"] = (
                    0.5 * spec.balance_coef * raw[f"{spec.name}/second_place"]
                )
        return raw, weighted
