"""Runs the generators in a process of its own, with another salt for Python's hash."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import hmoe.t5.data

_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(hmoe.t5.data.__file__)))

# The package `data` is imported from its folder, so that the process needs no TensorFlow.
_SCRIPT = """
import itertools, json, sys
sys.path.insert(0, sys.argv[1])
from data import cldr
examples = getattr(cldr, sys.argv[2])(sys.argv[3])
print(json.dumps(list(itertools.islice(examples, int(sys.argv[4])))))
print("tensorflow" in sys.modules)
"""


def first_examples(generator: str, split: str, number: int, salt: str) -> list[list[str]]:
    """Returns the first examples of a generator, as lists."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, _FOLDER, generator, split, str(number)],
        env={**os.environ, "PYTHONHASHSEED": salt},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    examples, imported = done.stdout.splitlines()
    assert imported == "False"
    return json.loads(examples)
