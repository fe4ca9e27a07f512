"""Runs the generators in a new process, with another salt for Python's hash."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import hmoe.t5.data

_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(hmoe.t5.data.__file__)))

# `hmoe.t5` loads TensorFlow, which the generators do not need: a bare package stands in for it.
_SCRIPT = """
import itertools, json, sys, types
sys.modules["hmoe.t5"] = types.ModuleType("hmoe.t5")
sys.modules["hmoe.t5"].__path__ = [sys.argv[1]]
from hmoe.t5.data import cldr
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
