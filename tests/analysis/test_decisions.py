"""Tokens are found again at every level: beside a loop that moves each of them into its slot."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.analysis.decisions import LevelDecisions, columns
from hmoe.analysis.traces import LevelInfo

FIELDS = ("level", "path", "parent", "rank", "expert", "used", "went")


def random_level(
    random: np.random.Generator,
    info: LevelInfo,
    leading: tuple[int, ...],
    real: np.ndarray,
    capacity: int,
    experts_choose: bool = False,
) -> LevelDecisions:
    """Decides at random for tokens [*leading, G, S], with slots in the order of tokens."""
    shape, experts = real.shape, info.num_experts
    choices = experts if experts_choose else info.num_choices
    order = np.argsort(random.random((*shape, experts)), -1)
    chosen = np.broadcast_to(np.arange(experts), order.shape) if experts_choose else order
    demand = (random.random((*shape, choices)) < 0.8) & real[..., None]
    if not experts_choose:
        demand[..., 0] = real
    wanted = demand & (random.random((*shape, choices)) < 0.9)
    went = np.array(chosen[..., :choices])
    if not experts_choose and choices < experts:  # some find another expert
        moved = random.random((*shape, choices)) < 0.2
        went = np.where(moved, order[..., -1:], went)
    position = np.full((*shape, choices), -1)
    for group in np.ndindex(shape[:-1]):
        filled = np.zeros(experts, int)
        for choice in range(choices):
            for token in range(shape[-1]):
                at = (*group, token, choice)
                if wanted[at] and filled[went[at]] < capacity:
                    position[at] = filled[went[at]]
                    filled[went[at]] += 1
    rank = np.zeros((*shape, choices), int)
    if not experts_choose:
        rank[:] = np.arange(choices)
    arrays = {
        "chosen": chosen[..., :choices],
        "rank": rank,
        "demand": demand.astype(np.float32),
        "wanted": wanted.astype(np.float32),
        "weight": random.random((*shape, choices)).astype(np.float32),
        "went": went,
        "position": position,
        "importance": real.astype(np.float32),
        "preferences": random.random((*shape, experts)).astype(np.float32),
    }
    del leading
    return LevelDecisions(info, capacity, arrays)


def slots_of(level: LevelDecisions, values: np.ndarray) -> np.ndarray:
    """Moves [*leading, G, S] into [X, *leading, G, C] choice by choice; -1 where a slot is empty."""
    went, position = level.arrays["went"], level.arrays["position"]
    found = np.full((level.info.num_experts, *values.shape[:-1], level.capacity), -1, object)
    for at in np.ndindex(position.shape):
        if position[at] >= 0:
            found[(went[at], *at[:-2], position[at])] = (values[at[:-1]], at[-1], went[at])
    return found


def by_loop(levels: list[LevelDecisions], known: np.ndarray) -> set[tuple]:
    """Returns (place, level, path, parent, rank, expert, used, went) of each row."""
    shape = levels[0].arrays["importance"].shape
    tokens = np.empty(shape, object)
    for place, at in enumerate(np.ndindex(shape)):
        tokens[at] = (place, 0, 0)
    rows = set()
    for number, level in enumerate(levels):
        arrays = level.arrays
        for at in np.ndindex(arrays["importance"].shape):
            if tokens[at] == -1 or not arrays["importance"][at] or not known[tokens[at][0]]:
                continue
            place, path, parent = tokens[at]
            chosen = [j for j in range(arrays["demand"].shape[-1]) if arrays["demand"][at][j]]
            for j in chosen:
                room = arrays["position"][at][j] >= 0
                rows.add(
                    (
                        place,
                        number,
                        path,
                        parent,
                        arrays["rank"][at][j],
                        arrays["chosen"][at][j],
                        bool(arrays["wanted"][at][j]),
                        arrays["went"][at][j] if room else -1,
                    )
                )
            if not chosen:
                rows.add((place, number, path, parent, -1, -1, False, -1))
        if number + 1 < len(levels):
            slots = slots_of(level, tokens)
            moved = np.empty(slots.shape, object)
            for at in np.ndindex(slots.shape):
                moved[at] = -1
                if slots[at] != -1:
                    (place, path, parent), choice, went = slots[at]
                    digit = (
                        choice if level.info.experts_choose else arrays["rank"][..., choice].max()
                    )
                    moved[at] = (
                        place,
                        path * level.info.num_choices + digit,
                        parent * level.info.num_experts + went,
                    )
            tokens = moved.reshape(levels[number + 1].arrays["importance"].shape)
    return rows


def is_filled(level: LevelDecisions, shape: tuple[int, ...]) -> np.ndarray:
    """Returns bool of a shape, which of the slots hold a token."""
    places = np.zeros(level.arrays["importance"].shape, int)
    slots = slots_of(level, places)
    filled = np.array([slots[at] != -1 for at in np.ndindex(slots.shape)])
    return filled.reshape(shape)


def decided(seed: int, experts_choose: bool, num_levels: int) -> list[LevelDecisions]:
    random = np.random.default_rng(seed)
    first = LevelInfo("outer", 3, 3 if experts_choose else 2, "Router", experts_choose)
    # 2 outer batches with 5 groups of 4 tokens; an outer expert has 2 * 5 * 2 slots.
    real = random.random((2, 5, 4)) < 0.9
    levels = [random_level(random, first, (2,), real, 2, experts_choose)]
    if num_levels > 1:
        second = LevelInfo("inner", 4, 2, "Router")
        levels.append(random_level(random, second, (3,), is_filled(levels[0], (3, 5, 4)), 1))
    if num_levels > 2:
        third = LevelInfo("last", 2, 1, "Router")
        # [4, 3, 5 groups, 1 slot], in one group of 5 for each of the experts above.
        levels.append(random_level(random, third, (4, 3), is_filled(levels[1], (4, 3, 1, 5)), 3))
    return levels


@pytest.mark.parametrize("num_levels", [1, 2, 3])
@pytest.mark.parametrize("experts_choose", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finds_each_token_again(seed: int, experts_choose: bool, num_levels: int) -> None:
    levels = decided(seed, experts_choose, num_levels)
    known = np.random.default_rng(seed).random(40) < 0.8
    found = columns(levels, known)
    rows = list(zip(found["place"], *(found[name] for name in FIELDS)))
    assert len(rows) == len(set(rows)) > 30
    assert set(rows) == by_loop(levels, known)
    assert rows == sorted(rows, key=lambda row: (row[0], row[1], row[2], row[3], row[4]))


def test_margins() -> None:
    preferences = np.array([[[0.5, 0.25, 0.125, 0.0625], [0.5, 0.125, 0.25, 0.0], [1, 0, 0, 0]]])
    ones = np.array([[[1, 1], [1, 0], [0, 0]]])
    arrays = {
        "chosen": np.array([[[0, 1], [0, 2], [0, 1]]]),
        "rank": np.array([[[0, 1], [0, 1], [0, 1]]]),
        "demand": ones.astype(np.float32),
        "wanted": ones.astype(np.float32),
        "weight": np.array([[[0.6, 0.4], [1, 0], [0, 0]]], np.float32),
        "went": np.array([[[0, 1], [0, 2], [0, 1]]]),
        "position": np.array([[[0, 0], [-1, -1], [-1, -1]]]),
        "importance": np.ones((1, 3), np.float32),
        "preferences": preferences.astype(np.float32),
    }
    level = LevelDecisions(LevelInfo("only", 4, 2, "TopKRouter"), 1, arrays)
    found = columns([level], np.ones(3, bool))
    # Two choices hang on the third preference, one on the second; nothing on what nobody chose.
    assert list(found["margin"]) == [0.125, 0.125, 0.25, np.inf]
    assert list(found["weight"]) == np.array([0.6, 0.4, 1, 0], np.float32).tolist()
    assert list(found["went"]) == [0, 1, -1, -1]
    assert list(found["expert"]) == [0, 1, 0, -1]
