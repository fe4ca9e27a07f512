"""Traces made by hand or at random, for tests of what is computed from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hmoe.analysis.traces import Category, LayerInfo, LevelInfo, Manifest, Trace

LAYER = "encoder/block_000/layer_001"


def manifest(num_examples: int, leaves: Sequence[int], layers: Sequence[str]) -> Manifest:
    """Returns a manifest of layers with so many experts at each level, outermost first."""
    names = {1: ("only",), 2: ("outer", "inner"), 3: ("outer", "middle", "inner")}[len(leaves)]
    levels = tuple(LevelInfo(n, size, 1, "TopKRouter") for n, size in zip(names, leaves))
    return Manifest(
        version="0.0",
        checkpoint="model.ckpt-7",
        step=7,
        num_examples=num_examples,
        labels=("language",),
        layers=tuple(LayerInfo(name, "inputs", levels) for name in layers),
        settings={"data": "cldr_names"},
    )


def of_experts(
    experts: np.ndarray,
    leaves: Sequence[int],
    labels: Sequence[str],
    tokens: np.ndarray | None = None,
    layers: Sequence[str] = (LAYER,),
) -> Trace:
    """Returns a trace in which each token has one choice at each level, of weight 1, with room.

    Args:
      experts: int [examples, layers, positions, levels], the expert at each level.
      leaves: experts of each level, outermost first.
      labels: the label of each example.
      tokens: int [examples, positions], the ids; None: the positions.
      layers: names of the layers.
    """
    num_examples, _, length, num_levels = experts.shape
    example, layer, position, level = (
        each.ravel() for each in np.indices(experts.shape, dtype=np.int32)
    )
    token = position if tokens is None else tokens[example, position]
    expert = experts.ravel().astype(np.int32)
    parent = np.zeros_like(experts)
    for number in range(1, num_levels):
        parent[..., number] = (
            parent[..., number - 1] * leaves[number - 1] + experts[..., number - 1]
        )
    rows = len(expert)
    numbers = {
        "example": example,
        "position": position,
        "token": token.astype(np.int32),
        "level": level.astype(np.int8),
        "path": np.zeros(rows, np.int32),
        "parent": parent.ravel().astype(np.int32),
        "rank": np.zeros(rows, np.int8),
        "expert": expert,
        "weight": np.ones(rows, np.float32),
        "used": np.ones(rows, bool),
        "went": expert,
        "margin": np.ones(rows, np.float32),
    }
    words = tuple(sorted(set(labels)))
    pieces, piece = np.unique(token, return_inverse=True)
    categories = {
        "task": Category(np.zeros(rows, np.int32), ("task",)),
        "label/language": Category(
            np.array([words.index(label) for label in labels], np.int32)[example], words
        ),
        "layer": Category(layer.astype(np.int32), tuple(layers)),
        "piece": Category(piece.astype(np.int32), tuple(f"p{number}" for number in pieces)),
    }
    return Trace(manifest(num_examples, leaves, layers), numbers, categories)


def trace(num_examples: int, length: int, leaves: Sequence[int], seed: int) -> Trace:
    """Returns a trace of one layer in which tokens choose at random, with two labels in turn."""
    random = np.random.default_rng(seed)
    experts = np.stack([random.integers(0, size, (num_examples, 1, length)) for size in leaves], -1)
    labels = ["de" if number % 2 else "el" for number in range(num_examples)]
    return of_experts(experts, leaves, labels)
