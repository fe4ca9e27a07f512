"""Names of files in a run's folder that tell what its experts learned."""

from __future__ import annotations

import hashlib
import os
import re

# The trace of the evaluated examples, with the step.
TRACE = re.compile(r"trace-(\d+)\.parquet")
# A trace of any examples.
_ANY_TRACE = r"trace-\d+(?:-[\w-]+)?\.parquet"
# Of the data in the name of a trace; file systems take 255 bytes, and a character has up to 4.
_MOST_CHARACTERS = 50
# What keeping some experts alone costs, with the step.
RETENTION = re.compile(r"retention-(\d+)-[\w-]+\.json")
ANY = re.compile(rf"{_ANY_TRACE}|{RETENTION.pattern}")


def trace_name(step: int, split: str | None = None, data: str | None = None) -> str:
    """Returns the name of a trace: the same for the same data, and another for other data.

    Args:
      step: step of the checkpoint that is traced.
      split: the split that is traced; None for the one that an evaluation has.
      data: the file that is traced in place of a split; None for none.
    """
    own = split and _as_name(split)
    if data is not None:
        digest = hashlib.blake2b(os.path.abspath(data).encode("utf-8"), digest_size=4).hexdigest()
        own = f"{_as_name(os.path.basename(data).split('.')[0])}-{digest}"
    return f"trace-{step}-{own}.parquet" if own else f"trace-{step}.parquet"


def _as_name(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text)[:_MOST_CHARACTERS]


def retention_name(step: int, label: str) -> str:
    """Returns the name of a study of a label, such as "language"."""
    return f"retention-{step}-{label}.json"
