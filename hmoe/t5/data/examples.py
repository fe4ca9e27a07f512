"""The example, its split, and random numbers that are the same in every process.

Nothing here depends on Python's salted `hash`, or on the `random` module, whose integer methods
have changed between versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from hmoe import checks
from hmoe.config import Configuration, configuration, setting
from hmoe.startup.data_files.digest import digest

T = TypeVar("T")

SPLITS: tuple[str, ...] = ("train", "validation", "test")

# Inputs are cut into 100 parts by their hash; validation and test get two parts each.
NUM_PARTS = 100
_HELD_OUT_PARTS = {0: "test", 1: "test", 2: "validation", 3: "validation"}

# The end-of-sequence token takes one position beside the bytes.
SEQUENCE_LENGTH = {"inputs": 48, "targets": 64}
MAX_INPUT_BYTES = SEQUENCE_LENGTH["inputs"] - 1
MAX_TARGET_BYTES = SEQUENCE_LENGTH["targets"] - 1


class Example(NamedTuple):
    """One example of a task, with the labels by which its predictions are analysed.

    Attributes:
      inputs: the text that the model reads, such as "de full date: 2037-07-15 Wed".
      targets: the text that it should write, such as "Mittwoch, 15. Juli 2037".
      language: CLDR locale of the targets, such as "de" or "sr_Latn".
      kind: subject of the example, such as "date" or "territory".
    """

    inputs: str
    targets: str
    language: str
    kind: str


def split_of(inputs: str) -> str:
    """Returns the split of an input, by its hash: 96 % train, 2 % validation, 2 % test.

    An input is in the same split whatever task, settings or process it comes from, so that no two
    splits share an input.
    """
    return split_of_digest(digest(inputs))


def split_of_digest(key: int) -> str:
    """Returns the split of the input that has a digest."""
    return _HELD_OUT_PARTS.get(key % NUM_PARTS, "train")


def positive(owner: str, field: str, value: int) -> int:
    """Returns a setting if it is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{owner}.{field} is {value!r}; it must be at least 1")
    return value


def some_of(known: Sequence[str]) -> checks.Check:
    """Returns a check for a list of known kinds, which keeps it as a tuple."""

    def check(owner: str, field: str, value: Sequence[str]) -> tuple[str, ...]:
        if not value:
            raise ValueError(f"{owner}.{field} is empty; name at least one")
        for kind in value:
            if kind not in known:
                raise ValueError(f"{owner}.{field}: no kind {kind!r}; there are {', '.join(known)}")
        return tuple(value)

    return check


@configuration()
class LengthLimits(Configuration):
    """Limits on the length of examples, which the settings of every generator have."""

    max_input_bytes: int = setting(
        MAX_INPUT_BYTES,
        doc="Longest input that is kept, in UTF-8.",
        unit="bytes",
        source="hmoe",
        check=positive,
    )
    max_target_bytes: int = setting(
        MAX_TARGET_BYTES,
        doc="Longest target that is kept, in UTF-8.",
        unit="bytes",
        source="hmoe",
        check=positive,
    )

    def fits(self, inputs: str, targets: str) -> bool:
        """Returns whether inputs and targets are within the limits."""
        return (
            len(inputs.encode("utf-8")) <= self.max_input_bytes
            and len(targets.encode("utf-8")) <= self.max_target_bytes
        )


def check_split(split: str) -> None:
    """Raises ValueError if there is no such split."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")


class ExampleRandom:
    """Random numbers for one example, which depend on a seed and the example's index alone.

    They use up a hash of 256 bits by division, which is enough for about twenty small numbers.
    """

    def __init__(self, seed: int, index: int):
        source = f"{seed}:{index}".encode("ascii")
        self._bits = int.from_bytes(hashlib.blake2b(source, digest_size=32).digest(), "big")

    def integer(self, limit: int) -> int:
        """Returns a number from 0 to limit - 1."""
        self._bits, number = divmod(self._bits, limit)
        return number

    def choice(self, choices: Sequence[T]) -> T:
        """Returns one of the choices."""
        return choices[self.integer(len(choices))]
