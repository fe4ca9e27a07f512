"""Builds a trace batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hmoe.analysis.decisions import LevelDecisions, columns
from hmoe.analysis.traces import NUMBERS, Category, LayerInfo, Manifest, Trace


@dataclasses.dataclass(frozen=True)
class ExampleInfo:
    """An example that is traced.

    Attributes:
      task: its task.
      labels: its labels, by name.
    """

    task: str
    labels: Mapping[str, str]


class TraceBuilder:
    """Collects the decisions about batches of examples."""

    def __init__(self, layers: Sequence[LayerInfo]):
        self._layers = layers
        self._found: list[dict[str, np.ndarray]] = []

    def add(
        self,
        layer: int,
        levels: Sequence[LevelDecisions],
        ids: np.ndarray,
        examples: np.ndarray,
    ) -> None:
        """Adds the decisions of a layer about one batch.

        Args:
          layer: the number of the layer.
          levels: its levels, outermost first.
          ids: int [rows, length], the tokens that it read.
          examples: int [rows], the number of each row's example; -1 for rows of padding.
        """
        of_place = np.repeat(examples, ids.shape[1])
        found = columns(levels, of_place >= 0)
        place = found.pop("place")
        found["example"] = of_place[place]
        found["position"] = place % ids.shape[1]
        found["token"] = ids.reshape(-1)[place]
        found["layer"] = np.full(len(place), layer, np.int32)
        self._found.append(found)

    def build(
        self,
        manifest: Manifest,
        examples: Sequence[ExampleInfo],
        piece: Callable[[str, int], str],
    ) -> Trace:
        """Returns the trace of all that was added.

        Args:
          manifest: what it is of.
          examples: the examples, by number.
          piece: returns the text of a token: of the tokens of "inputs" or "targets", the one with
            this id.
        """
        joined = {
            name: np.concatenate([each[name] for each in self._found])
            for name in (*NUMBERS, "layer")
        }
        order = np.lexsort([joined["layer"], joined["example"]])  # stable: the rest is in order
        joined = {name: values[order] for name, values in joined.items()}
        example, layer = joined["example"], joined["layer"]
        categories = {
            "task": _category([each.task for each in examples], example),
            "layer": Category(layer, tuple(each.name for each in self._layers)),
            "piece": self._pieces(layer, joined["token"], piece),
        }
        for name in manifest.labels:
            words = [each.labels.get(name, "") for each in examples]
            categories[f"label/{name}"] = _category(words, example)
        numbers: dict[str, np.ndarray] = {
            name: joined[name].astype(dtype) for name, dtype in NUMBERS.items()
        }
        return Trace(manifest, numbers, categories)

    def _pieces(
        self, layer: np.ndarray, token: np.ndarray, piece: Callable[[str, int], str]
    ) -> Category:
        sequences = [each.sequence for each in self._layers]
        of_inputs = np.array([each == "inputs" for each in sequences])[layer]
        both = np.stack([of_inputs, token], axis=1)
        found = np.unique(both, axis=0, return_inverse=True)
        pairs, numbers = found[0], found[1].reshape(-1)
        texts = [
            piece("inputs" if is_input else "targets", int(number)) for is_input, number in pairs
        ]
        return _category(texts, numbers)


def _category(words: Sequence[str], of_row: np.ndarray) -> Category:
    """Returns the column of the words with these numbers."""
    names = sorted(set(words))
    codes = np.array([names.index(word) for word in words], np.int32)
    return Category(codes[of_row], tuple(names))
