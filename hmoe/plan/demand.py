"""The demand for experts that training measured, and what a capacity would drop of it.

The metrics are sums over the groups and steps since the last line, so that only a bound can be had
from them. Of n choices in all, a share p_i is for expert i, and the slots of a level are c for each
choice, the same for each of its X experts. Whatever the groups were, expert i could serve at most
c n / X of its p_i n choices, so that at least

    sum over experts of max(0, p_i - c / X)

of all choices find no slot. Where the choices are spread unevenly over groups, steps or sets of
sibling experts, it is more. The largest load of siblings, where it is measured apart for each set,
gives a second bound, load_imbalance / X - c / X, and the higher one holds.

At the capacity of the training run, c = filled share of choices / filled share of slots, both
measured, so that no word is needed on padding, which asks for nothing, or on `min_capacity`. It
takes that every token makes all choices. Below the first level, where a token that came by a later
choice makes one alone, c is an estimate: such tokens are taken to find slots as often as others.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from etils import epath

from hmoe.startup import tables
from hmoe.startup.saved_run import METRICS_FILE

# Capacities, as multiples of that of the training run.
MULTIPLES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)

_SETTING = 'hmoe.HierarchicalMoE.metrics = "full"'
_OF_EXPERT = re.compile(r"(?P<level>.+/\w+)/load_\d+")
_OF_LEVEL = re.compile(r".+/\w+/load_imbalance")


@dataclasses.dataclass(frozen=True)
class LayerDemand:
    """The demand at one level of one layer.

    Attributes:
      layer: name of the layer, such as "decoder/block_001/layer_002".
      level: name of the level.
      loads: share of all choices that each expert is wanted for, over all sets of siblings; their
        sum is 1.
      imbalance: choices for the most wanted of siblings over their mean.
      placed: share of full tokens' choices that found a slot.
      usage: share of the slots that were filled.
    """

    layer: str
    level: str
    loads: tuple[float, ...]
    imbalance: float
    placed: float
    usage: float

    @property
    def slots_per_choice(self) -> float:
        """Slots for each choice at the capacity of the training run."""
        return self.placed / self.usage

    def dropped(self, multiple: float) -> float:
        """Returns the share of choices that find no slot, at the least.

        Args:
          multiple: the capacity as a multiple of that of the training run.
        """
        slots = multiple * self.slots_per_choice / len(self.loads)
        over = sum(max(0.0, load - slots) for load in self.loads)
        return max(over, self.imbalance / len(self.loads) - slots)


@dataclasses.dataclass(frozen=True)
class LevelDemand:
    """The demand at the levels of one name.

    Attributes:
      name: name of the level.
      layers: the demand in each layer that has the level.
    """

    name: str
    layers: tuple[LayerDemand, ...]

    @property
    def unplaced(self) -> float:
        """Share of full tokens' choices that found no slot in training; mean over layers.

        Later choices that the router's policy left out are among them.
        """
        return sum(1 - each.placed for each in self.layers) / len(self.layers)

    def dropped(self, multiple: float) -> float:
        """Returns the mean over layers; see `LayerDemand.dropped`."""
        return sum(each.dropped(multiple) for each in self.layers) / len(self.layers)


@dataclasses.dataclass(frozen=True)
class Demand:
    """The demand that a training run measured.

    Attributes:
      path: the file that it stands in.
      step: the training step of the line that is read: the mean of the steps since the line before.
      levels: the levels by name, in the order of the file, which is outermost first.
    """

    path: str
    step: int
    levels: tuple[LevelDemand, ...]

    def table(self, factors: Mapping[str, float] | None = None, *, styled: bool = False) -> str:
        """Returns a table of what capacities would drop, for a person.

        Args:
          factors: by name of a level, the slots a token that training had, to print what multiples
            of them are: the capacity factor, unless `min_capacity` raised it.
          styled: whether a terminal that knows styles reads it.
        """
        title = "Choices that a capacity would drop, at the least"
        columns = [f"x {multiple:g}" for multiple in MULTIPLES]
        found = tables.table("level", *columns, "in training")
        for level in self.levels:
            shares = [f"{level.dropped(multiple):.1%}" for multiple in MULTIPLES]
            found.add_row(level.name, *shares, f"{level.unplaced:.1%}")
            if factors and level.name in factors:
                slots = [f"{multiple * factors[level.name]:.3g}" for multiple in MULTIPLES]
                found.add_row("  slots a token", *slots, f"{factors[level.name]:.3g}")
        return tables.rendered([tables.titled(title, found), self._meaning()], styled=styled)

    def _meaning(self) -> str:
        return (
            f"Capacities are multiples of that of the training run; step {self.step:,} of "
            f"{self.path}, mean over layers.\n"
            "A lower bound, from the load of each expert over all groups: groups that differ drop "
            "more. At\ninner levels it rests on an estimate of the slots for each choice. Retries "
            "are not counted.\nIn training: choices of full tokens without a slot, and those that "
            "the policy left out."
        )


def demand(path: str) -> Demand:
    """Reads the demand that a training run measured last.

    Levels where experts choose tokens are left out where the numbers show it, that is where a token
    had more experts than it can choose: nothing is dropped for lack of slots there.

    Args:
      path: folder of the run.

    Raises:
      ValueError: it has no metrics, or not those that are needed.
    """
    file = epath.Path(path) / METRICS_FILE
    if not file.exists():
        raise ValueError(
            f"{path} has no {METRICS_FILE}, which training writes, so that no demand is known; "
            "name the folder of a training run"
        )
    lines = list(_lines(file.read_bytes().decode("utf-8", errors="replace")))
    for numbers in reversed(lines):
        layers = list(_layers(numbers))
        if layers:
            return Demand(str(file), int(numbers["step"]), _by_level(layers))
    raise ValueError(f"{file} {_missing(lines)}")


def _lines(text: str) -> Iterator[dict[str, float]]:
    """Yields the numbers of each line by name, without lines that are damaged."""
    for line in text.split("\n"):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict) and type(fields.get("step")) is int:
            yield {name: each for name, each in fields.items() if _is_number(each)}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _layers(numbers: Mapping[str, float]) -> Iterator[LayerDemand]:
    """Yields the demand at each level of each layer that a line of metrics tells."""
    found = (_OF_EXPERT.fullmatch(name) for name in numbers)
    for prefix in dict.fromkeys(match["level"] for match in found if match):
        layer, level = prefix.rsplit("/", 1)
        loads = _indexed(numbers, f"{prefix}/load_")
        routed = _indexed(numbers, f"{prefix}/fraction_routed_rank_")
        usage = numbers.get(f"{prefix}/expert_usage", 0.0)
        imbalance = numbers.get(f"{prefix}/load_imbalance", 1.0)
        placed = sum(routed) / len(routed) if routed else 0.0
        if sum(loads) and usage and 0 < placed <= 1:
            yield LayerDemand(layer, level, tuple(loads), imbalance, placed, usage)


def _indexed(numbers: Mapping[str, float], prefix: str) -> list[float]:
    """Returns the numbers of the names that a prefix and 0, 1, ... make."""
    found: list[float] = []
    while f"{prefix}{len(found)}" in numbers:
        found.append(numbers[f"{prefix}{len(found)}"])
    return found


def _by_level(layers: Sequence[LayerDemand]) -> tuple[LevelDemand, ...]:
    names = dict.fromkeys(each.level for each in layers)
    return tuple(
        LevelDemand(name, tuple(each for each in layers if each.level == name)) for name in names
    )


def _missing(lines: Sequence[Mapping[str, float]]) -> str:
    """Returns what lines of metrics lack, and what helps."""
    if not lines:
        return "has no whole line of metrics yet; train until the first is written"
    names = {name for numbers in lines for name in numbers}
    if any(_OF_EXPERT.fullmatch(name) for name in names):
        return (
            "shows no demand of tokens for experts: at every level experts choose tokens, or no "
            "token came; name a run whose routers send tokens to experts"
        )
    if any(_OF_LEVEL.fullmatch(name) for name in names):
        known = "has the largest load of each level, but not the load of each expert"
    else:
        known = "has no load of experts"
    return (
        f"{known} (load_<i>), which a model with mixture layers writes with {_SETTING}; train some "
        "steps so"
    )
