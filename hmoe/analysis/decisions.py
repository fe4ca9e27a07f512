"""Follows tokens through the levels of a layer, from the decisions of its routers.

No number of a token travels with it. The slots that a level gives to its choices are, in their
order, the tokens of the next level, so who went where follows from experts and slots alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hmoe.analysis.traces import LevelInfo

# By name, with one entry for each row.
Columns = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class LevelDecisions:
    """The decisions of one level of a layer about one batch.

    Attributes:
      info: the level.
      capacity: C, the slots of an expert for one group.
      arrays: what `hmoe.layer.decisions` returns, each [..., G, S, K], [..., G, S, X] or
        [..., G, S].
    """

    info: LevelInfo
    capacity: int
    arrays: Mapping[str, np.ndarray]

    @property
    def group_size(self) -> int:
        """S."""
        return self.arrays["importance"].shape[-1]

    def flat(self, name: str) -> np.ndarray:
        """Returns an array with one row for each token of the level."""
        found = self.arrays[name]
        if name == "importance":
            return found.reshape(-1)
        return found.reshape(-1, found.shape[-1])


def columns(levels: Sequence[LevelDecisions], known: np.ndarray) -> Columns:
    """Returns the rows of a trace of one layer and one batch.

    Args:
      levels: the levels of the layer, outermost first.
      known: bool [tokens of the batch], which of them are traced; padding never is.

    Returns:
      The columns "level" to "margin" of `hmoe.analysis.traces`, and int64 "place", the number of
      the token in the batch. Rows stand in the order of places, levels, paths and ranks.
    """
    found = list(_levels(levels, known))
    joined = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
    order = np.lexsort([joined[n] for n in ("rank", "parent", "path", "level", "place")])
    return {name: values[order] for name, values in joined.items()}


def _levels(levels: Sequence[LevelDecisions], known: np.ndarray) -> Iterator[Columns]:
    """Yields the rows of one level after the other."""
    slots = np.flatnonzero(known & (levels[0].flat("importance") > 0))
    zeros = np.zeros(len(slots), np.int32)
    # The tokens of a level: where they stand there, and how they came.
    tokens: Columns = {"slot": slots, "place": slots, "path": zeros, "parent": zeros}
    for number, level in enumerate(levels):
        yield _rows_of_level(level, number, tokens)
        tokens = _arriving(level, tokens)


def _rows_of_level(level: LevelDecisions, number: int, tokens: Columns) -> Columns:
    slots = tokens["slot"]
    chosen = level.flat("demand")[slots] > 0
    token, choice = np.nonzero(chosen)
    # A token that nobody chose has a row all the same.
    alone = np.flatnonzero(~chosen.any(axis=-1))
    is_choice = np.arange(len(token) + len(alone)) < len(token)
    token = np.concatenate([token, alone])
    choice = np.concatenate([choice, np.zeros(len(alone), choice.dtype)])

    def of_choice(name: str, otherwise: float) -> np.ndarray:
        return np.where(is_choice, level.flat(name)[slots[token], choice], otherwise)

    has_room = is_choice & (of_choice("position", -1) >= 0)
    return {
        "place": tokens["place"][token],
        "level": np.full(len(token), number, np.int8),
        "path": tokens["path"][token],
        "parent": tokens["parent"][token],
        "rank": of_choice("rank", -1).astype(np.int8),
        "expert": of_choice("chosen", -1).astype(np.int32),
        "weight": of_choice("weight", 0).astype(np.float32),
        "used": of_choice("wanted", 0) > 0,
        "went": np.where(has_room, of_choice("went", -1), -1).astype(np.int32),
        "margin": _margins(level, slots)[token],
    }


def _arriving(level: LevelDecisions, tokens: Columns) -> Columns:
    """Returns the tokens of the next level: the filled slots of this one."""
    slots = tokens["slot"]
    position = level.flat("position")[slots]
    token, choice = np.nonzero(position >= 0)
    went = level.flat("went")[slots[token], choice]
    num_groups = len(level.flat("importance")) // level.group_size
    group = slots[token] // level.group_size
    digit = choice if level.info.experts_choose else level.flat("rank")[slots[token], choice]
    return {
        # [X, groups, C], as dispatch lays slots out.
        "slot": (went * num_groups + group) * level.capacity + position[token, choice],
        "place": tokens["place"][token],
        "path": (tokens["path"][token] * level.info.num_choices + digit).astype(np.int32),
        "parent": (tokens["parent"][token] * level.info.num_experts + went).astype(np.int32),
    }


def _margins(level: LevelDecisions, slots: np.ndarray) -> np.ndarray:
    """Returns float32 [tokens], the smallest difference that a choice hangs on.

    It is infinite where there is no other expert, and not a number where experts choose, since
    their choices hang on all tokens.
    """
    if level.info.experts_choose:
        return np.full(len(slots), np.nan, np.float32)
    number = np.round(level.flat("demand")[slots].sum(axis=-1)).astype(int)
    sorted_preferences = -np.sort(-level.flat("preferences")[slots], axis=-1)
    differences = sorted_preferences[:, :-1] - sorted_preferences[:, 1:]
    hangs = np.arange(differences.shape[1]) < number[:, None]
    return np.where(hangs, differences, np.inf).min(axis=-1, initial=np.inf).astype(np.float32)
