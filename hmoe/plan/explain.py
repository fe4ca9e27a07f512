"""Writes the formulas of a layer's costs, with their numbers put in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hmoe.plan.costs import ALL_REDUCE, ALL_TO_ALL, OTHER, Place
from hmoe.plan.formulas import layer_terms
from hmoe.plan.layer_case import LayerCase
from hmoe.plan.layer_sizes import Dim, LevelSizes, level_sizes, split
from hmoe.plan.terms import Term

# Columns that lines are kept to.
_WIDTH = 100


def explain(case: LayerCase) -> str:
    """Returns the formulas of all that a device multiplies and sends for a layer in one step.

    Each formula stands below the part of the layer that it belongs to, with its numbers put in:
    multiplications of one device, or bytes that it sends. A dimension over a number, such as X/4,
    is split over so many devices.

    Args:
      case: the layer.
    """
    lines = ["One device, one step. Bytes are those that it sends, rounded down in each exchange."]
    lines += _letters(case)
    terms = layer_terms(case)
    for place in dict.fromkeys(term.place for term in terms):
        here = [term for term in terms if term.place == place]
        lines += ["", _heading(place, here)]
        for term in here:
            lines += _wrapped(_formula(term))
    return "\n".join(lines)


def _letters(case: LayerCase) -> Iterator[str]:
    """Yields what the letters of formulas stand for."""
    for symbol, name, size in (
        ("A", "outer_batch", case.outer_batch),
        ("B", "batch", case.batch),
        ("L", "length", case.length),
        ("M", "d_model", case.d_model),
        ("N", "output_dim", case.output_dim),
        ("F", "expert_hidden", case.experts.hidden_size),
        ("f", "d_ff", case.shared_expert.hidden_size if case.shared_expert else 0),
    ):
        if size:
            yield _letter(split(case, symbol, name, size), name)
    for level in level_sizes(case):
        yield from _letters_of(level)


def _letters_of(level: LevelSizes) -> Iterator[str]:
    name = level.case.name
    yield _letter(level.experts, f"experts of {name}")
    yield _letter(level.groups, f"groups of {name}")
    yield _letter(level.tokens, f"tokens of a group of {name}")
    yield _letter(level.capacity, f"slots of an expert of {name} for a group")
    yield _letter(level.choices, f"rounds of choices of {name}")
    if level.retries.size:
        yield _letter(level.retries, f"retries of {name}")


def _letter(dim: Dim, name: str) -> str:
    over = f", split over {dim.splits} devices of {dim.axis}" if dim.splits > 1 else ""
    return f"  {dim.symbol} = {dim.size:,}: {name}{over}"


def _heading(place: Place, terms: Sequence[Term]) -> str:
    part = "losses and metrics" if place.part == OTHER else place.part
    name = f"{place.level} {part}" if place.level else part
    multiplied = sum(term.total for term in terms if term.kind is None)
    sent = sum(term.total for term in terms if term.kind is not None)
    return f"{name}, {place.phase}: {multiplied:,} multiplications, {sent:,} B"


def _formula(term: Term) -> list[str]:
    """Returns what a formula is of, the formula, its numbers, and its value."""
    letters = [f"{dim.symbol}/{dim.splits}" if dim.splits > 1 else dim.symbol for dim in term.dims]
    numbers = [f"{dim.local:,}" for dim in term.dims]
    what, unit = term.what, ""
    factors: list[str] = []
    if term.kind is not None:
        what, unit = f"{what}, {term.kind} over {' and '.join(term.axes)}", " B"
        factors = [str(term.copies)] if term.copies > 1 else []
        factors += [f"{term.element} B"]
        if term.kind == ALL_REDUCE:
            factors.insert(0, "2")
        share = f" / {term.group}" if term.kind in (ALL_REDUCE, ALL_TO_ALL) else ""
        factors += [f"({term.group} - 1){share}"]
    if term.count > 1:
        factors = [f"{term.count:,} times", *factors]
    sides = [_product(letters, factors), _product(numbers, factors), f"{term.total:,}{unit}"]
    # Without letters there is nothing to put in.
    first, *others = dict.fromkeys(sides)
    return [f"{what}:", first, *(f"= {each}" for each in others)]


def _product(dims: Sequence[str], factors: Sequence[str]) -> str:
    """Returns a product; how often it is taken stands in front."""
    times = [each for each in factors if each.endswith(" times")]
    others = [each for each in factors if not each.endswith(" times")]
    product = " * ".join([*dims, *others]) or "1"
    return " ".join([*times, product])


def _wrapped(parts: Sequence[str]) -> Iterator[str]:
    """Yields a line, broken between its parts where it is too long."""
    line = " "
    for part in parts:
        if len(line) + 1 + len(part) > _WIDTH:
            yield line
            line = "     "
        line = f"{line} {part}"
    yield line
