"""Scores of one group: what happens to the inputs, the logits and their function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.reference.specs import GateSpec, Numbers, Place

# What upstream adds to a logit that is not to be chosen.
NEVER = -1e9


def softmax(logits: np.ndarray) -> np.ndarray:
    values = np.exp(logits - logits.max())
    return values / values.sum()


def gumbel(numbers: np.ndarray) -> np.ndarray:
    """The largest of logits plus these is a sample from their softmax."""
    return -np.log(-np.log(np.asarray(numbers, np.float64) + 1e-9))


def score(
    places: Sequence[Place],
    gate: GateSpec,
    kernel: np.ndarray,
    bias: np.ndarray | None,
    numbers: Numbers,
    margins: list[float],
) -> tuple[np.ndarray, np.ndarray]:
    """(logits, probabilities), each [token, expert]; adds to `margins`."""
    logits = []
    for t, place in enumerate(places):
        row = _inputs(t, place, gate, numbers) @ kernel
        if bias is not None:
            row = row + bias
        if gate.explore_probability:
            row = _explored(t, row, gate, numbers, margins if place.importance > 0 else [])
        logits.append(row)
    if gate.function == "sigmoid":
        return np.array(logits), np.array([1 / (1 + np.exp(-row)) + 1e-7 for row in logits])
    return np.array(logits), np.array([softmax(row) for row in logits])


def _inputs(t: int, place: Place, gate: GateSpec, numbers: Numbers) -> np.ndarray:
    token, embedding = place.vector, place.embedding
    if gate.jitter:
        token = token * (1 - gate.jitter + 2 * gate.jitter * numbers("jitter")[t])
    if gate.input_dropout:
        token = np.where(numbers("input_dropout")[t] < 1 - gate.input_dropout, token, 0.0)
        token = token / (1 - gate.input_dropout)
    if gate.word_embeddings is None:
        return token
    return {
        "concat": lambda: np.concatenate([token, embedding]),
        "add": lambda: token + embedding,
        "embed_only": lambda: embedding,
    }[gate.word_embeddings.replace("_stop_grad", "")]()


def _explored(
    t: int, logits: np.ndarray, gate: GateSpec, numbers: Numbers, margins: list[float]
) -> np.ndarray:
    best = int(np.argmax(logits))
    draw = numbers("explore")[t]
    margins.append(abs(draw - gate.explore_probability))
    if draw >= gate.explore_probability:
        return logits
    rest = np.array([x for e, x in enumerate(logits) if e != best])
    margins.append(logits[best] - rest.max())
    logits = logits.copy()
    logits[best] += NEVER
    if gate.explore_temperature is not None:
        drawn = logits / gate.explore_temperature + gumbel(numbers("explore_sample")[t])
        first, second = np.argsort(-drawn)[:2]
        margins.append(drawn[first] - drawn[second])
        for e in range(len(logits)):
            if e != first:
                logits[e] += NEVER
    return logits
