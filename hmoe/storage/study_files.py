"""Names of files in a run's folder that tell what its experts learned."""

from __future__ import annotations

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


def trace_name(step: int, what: str | None = None) -> str:
    """Returns the name of a trace.

    Args:
      step: step of the checkpoint that is traced.
      what: the data that is traced; None for the examples that an evaluation has.
    """
    own = "" if what is None else "-" + re.sub(r"[^\w-]+", "_", what)[:_MOST_CHARACTERS]
    return f"trace-{step}{own}.parquet"


def retention_name(step: int, label: str) -> str:
    """Returns the name of a study of a label, such as "language"."""
    return f"retention-{step}-{label}.json"
