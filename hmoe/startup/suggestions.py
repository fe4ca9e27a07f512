"""Suggests what a name that is not known may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

# How alike two names are, of 1, of which one is surely a slip of the other: a letter or two differ.
_SLIP = 0.8


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """Returns a phrase that suggests the one known name that is most like `name`, or "".

    Args:
      name: the name that is not known.
      known: names to choose from; `name` itself is none.
      prefix: what is shown before a known name.
    """
    close = difflib.get_close_matches(name, _others(name, known), n=1)
    return _phrase([f"{prefix}{each}" for each in close])


def similar(name: str, known: Sequence[str]) -> str:
    """Returns a phrase that suggests up to three known names that are like `name`, or ""."""
    return _phrase(difflib.get_close_matches(name, list(known), n=3, cutoff=0.5))


def nearest_of(name: str, known: Sequence[str], verb: str) -> str:
    """Returns what is nearest to a name and all that it may be: "; did you mean 'a'? It has a, b".

    Args:
      name: the name that is not known.
      known: names to choose from.
      verb: what comes before the list, such as "it has".
    """
    near = nearest(name, known)
    begin = f"{near} {verb[0].upper()}{verb[1:]}" if near else f"; {verb}"
    return f"{begin} {', '.join(known)}"


def is_slip(name: str, known: Sequence[str], own_code: str) -> bool:
    """Returns whether a name is a known one with a slip, although a user's own code has names too.

    Args:
      name: the name that is not known.
      known: names to choose from.
      own_code: the text of the user's modules; a name that stands in it is meant as it is.
    """
    if re.search(rf"\b{re.escape(name)}\b", own_code):
        return False
    return bool(difflib.get_close_matches(name, _others(name, known), n=1, cutoff=_SLIP))


def _others(name: str, known: Sequence[str]) -> list[str]:
    return [each for each in known if each != name]


def _phrase(close: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
