"""`hmoe trace --compare`: how many tokens two traces route to other experts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from hmoe.analysis import flips, traces
from hmoe.analysis.flips import SURE, FlipRate
from hmoe.startup import tables


def run(flags: argparse.Namespace) -> None:
    """Prints the flip rates of two traces.

    Raises:
      ValueError: a file is no trace, or they are not of the same examples and layers.
    """
    first, second = (traces.read(path) for path in flags.compare)
    rates = flips.flip_rates(first, second)
    if flags.json:
        fields = [
            {**dataclasses.asdict(each), "rate": each.rate, "sure_rate": each.sure_rate}
            for each in rates
        ]
        print(json.dumps(fields, indent=2))
    else:
        print(report(rates, styled=sys.stdout.isatty()))


def report(rates: Sequence[FlipRate], *, styled: bool = False) -> str:
    """Returns the table of flip rates."""
    table = tables.table(
        "layer and level", "tokens", "flipped", "share", "reordered", "sure", "of which flipped"
    )
    for each in rates:
        table.add_row(
            f"{each.layer} {each.level}",
            f"{each.tokens:,}",
            f"{each.flipped:,}",
            f"{each.rate:.3%}",
            f"{each.reordered:,}",
            f"{each.sure:,}",
            f"{each.sure_flipped:,}",
        )
    meaning = (
        "flipped: another set of experts was chosen, whether the policy uses them and they have"
        " room or not. reordered: the same, in another order. sure:"
        f" scores differ by more than {SURE:g} in both traces, so that rounding decides nothing."
    )
    title = "Tokens that the two traces route otherwise"
    return tables.rendered([tables.titled(title, table), meaning], styled=styled)
