"""Alarms about experts and routers: from numbers to words, with the setting that helps.

An alarm judges the sums of a number of steps, so that it speaks of a state and not of one batch.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hmoe.layer.level_states import LevelState

BALANCE = "hmoe.Level.balance_loss_coef"
CAPACITY = "hmoe.Level.capacity_factor_train"
Z_LOSS = "hmoe.Level.z_loss_coef"

# Number of experts that the words of an alarm name.
MAX_NAMED = 6

Index = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What alarms are given for; None or False for no such alarm.

    Attributes:
      idle_experts: whether an innermost expert that no token chose is one. Choices count before
        policy and capacity.
      group_below: demand for a group of experts over the mean of its siblings, below which it is.
      group_above: the same, above which it is.
      dropped_above: share of a layer's tokens that a level leaves behind, above which it is.
      entropy_below: entropy of a gate as a share of ln(experts), below which it is; where it is not
        measured, a bound on it that the weights of slots give.
    """

    idle_experts: bool
    group_below: float | None
    group_above: float | None
    dropped_above: float | None
    entropy_below: float | None


@dataclasses.dataclass(frozen=True)
class Alarm:
    """An alarm about a level of a layer.

    Attributes:
      kind: "idle_experts", "group_below", "group_above", "dropped_above" or "entropy_below".
      layer: name of the layer.
      level: name of the level.
      experts: indices of the experts or groups that it is about, each preceded by those of the
        groups around it, outermost first; empty if it is about the level as a whole.
      value: the number that passed the limit, of several experts the worst one.
      limit: the limit.
      setting: the name in gin of the setting that helps.
      text: what is wrong, in words.
    """

    kind: str
    layer: str
    level: str
    experts: tuple[Index, ...]
    value: float
    limit: float
    setting: str
    text: str

    @property
    def line(self) -> str:
        """The alarm as a line for the user."""
        return (
            f"Alarm: {self.layer}, level {self.level}: {self.text}; "
            f"raise {self.setting} of this level"
        )


class Once:
    """Lets each alarm through once: for a kind and a place, and for an expert where it has one."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def is_new(self, kind: str, state: LevelState, expert: Index = ()) -> bool:
        """Returns whether it is asked about this for the first time."""
        key = _key(kind, state.layer, state.level, expert)
        is_new = key not in self._given
        self._given.add(key)
        return is_new

    def remember(self, alarm: Mapping[str, Any]) -> None:
        """Lets an alarm of an earlier session through no more.

        Args:
          alarm: its fields, as JSON has them. Others than those of an `Alarm` change nothing.
        """
        experts = alarm.get("experts")
        place = [alarm.get(name) for name in ("kind", "layer", "level")]
        for expert in (experts or [[]]) if isinstance(experts, list) else []:
            self._given.add(_key(*place, expert))


def _key(*values: object) -> str:
    """Returns the same text for values and for what JSON makes of them."""
    return json.dumps(values)


def find(
    states: Iterable[LevelState], limits: Limits, once: Once, first: int, last: int
) -> list[Alarm]:
    """Returns the alarms that were not given before.

    Args:
      states: how levels stand, from the sums of the steps `first` to `last`.
      limits: what alarms are given for.
      once: remembers which were given.
      first: the first of the steps.
      last: the last of the steps.
    """
    when = f"in steps {first} to {last}" if last > first else f"in step {last}"
    return [
        alarm
        for state in states
        for finding in (_idle_experts, _groups, _dropped, _entropy)
        for alarm in finding(state, limits, once, when)
    ]


def _idle_experts(state: LevelState, limits: Limits, once: Once, when: str) -> Iterator[Alarm]:
    if not (limits.idle_experts and state.is_innermost):
        return
    idle = _indices(state.load == 0)
    new = [each for each in idle if once.is_new("idle_experts", state, each)]
    if new:
        text = (
            f"no token chose {_named('expert', new)} {when}, counted before policy and capacity "
            f"(idle experts in all: {len(idle)} of {state.load.size})"
        )
        yield Alarm("idle_experts", state.layer, state.level, tuple(new), 0.0, 0.0, BALANCE, text)


def _groups(state: LevelState, limits: Limits, once: Once, when: str) -> Iterator[Alarm]:
    if state.is_innermost:
        return
    totals = state.load.sum(axis=-1, keepdims=True)
    # 1 where siblings are even, and where nothing came to any of them.
    shares = np.where(totals, state.load * state.load.shape[-1] / np.maximum(totals, 1e-9), 1.0)
    for kind, limit, wrong, worst, word in (
        ("group_below", limits.group_below, np.less, np.min, "below"),
        ("group_above", limits.group_above, np.greater, np.max, "above"),
    ):
        if limit is None:
            continue
        indices = _indices(wrong(shares, limit))
        new = [each for each in indices if once.is_new(kind, state, each)]
        if new:
            value = float(worst([shares[each] for each in new]))
            text = (
                f"the demand for {_named('group', new)} is {word} {limit:g} times the even share "
                f"{when} ({value:.2f} times at the worst)"
            )
            yield Alarm(kind, state.layer, state.level, tuple(new), value, limit, BALANCE, text)


def _dropped(state: LevelState, limits: Limits, once: Once, when: str) -> Iterator[Alarm]:
    limit = limits.dropped_above
    if limit is None or state.dropped <= limit or not once.is_new("dropped_above", state):
        return
    text = (
        f"{100 * state.dropped:.1f} % of the layer's tokens were left behind because of this level "
        f"{when}, which is above {100 * limit:g} %"
    )
    yield Alarm("dropped_above", state.layer, state.level, (), state.dropped, limit, CAPACITY, text)


def _entropy(state: LevelState, limits: Limits, once: Once, when: str) -> Iterator[Alarm]:
    limit, num_experts = limits.entropy_below, state.load.shape[-1]
    is_bound = state.entropy is None
    entropy = state.entropy_at_most if is_bound else state.entropy
    if limit is None or entropy is None or num_experts == 1:
        return
    share = entropy / math.log(num_experts)
    if share >= limit or not once.is_new("entropy_below", state):
        return
    at_most, of_which = (" at most", " for tokens with a slot") if is_bound else ("", "")
    text = (
        f"the entropy of the router{of_which} is{at_most} {entropy:.2g} nats {when},{at_most} "
        f"{100 * share:.2g} % of that of an undecided one, which is below {100 * limit:g} %"
    )
    yield Alarm("entropy_below", state.layer, state.level, (), share, limit, Z_LOSS, text)


def _indices(mask: np.ndarray) -> list[Index]:
    """Returns the indices at which a mask [*outer experts, X] is true."""
    return [tuple(int(i) for i in index) for index in np.argwhere(mask)]


def _named(word: str, indices: Sequence[Index]) -> str:
    """Returns "expert 0.2", or "experts 0.2, 1.0 and 2 more": each after the groups around it."""
    names = [".".join(map(str, index)) for index in indices[:MAX_NAMED]]
    more = len(indices) - len(names)
    tail = f" and {more} more" if more else ""
    return f"{word}{'s' if len(indices) > 1 else ''} {', '.join(names)}{tail}"
