"""Each bad input of the table gets its one message, quickly, and changes nothing."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.cli import bad_inputs

ROOT = pathlib.Path(__file__).parents[2]

# Runs all rows in one process, which fails where one of them loads TensorFlow.
RUN = """
import contextlib, io, json, pathlib, sys, time
from tests.cli import bad_inputs
from hmoe.cli import main

sys.path = [each for each in sys.path if each]  # as the installed command has it
here = pathlib.Path.cwd()
results = {}
before = bad_inputs.tree(here)
for row in bad_inputs.rows(here):
    out, errors = io.StringIO(), io.StringIO()
    begun = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = main.main(row.words)
        except SystemExit as stop:
            status = stop.code
    seconds = time.perf_counter() - begun
    assert "tensorflow" not in sys.modules, row.name
    changed = bad_inputs.tree(here) != before
    results[row.name] = [status, out.getvalue(), errors.getvalue(), seconds, changed]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("bad_inputs")
    bad_inputs.make(folder)
    os.mkfifo(folder / "pipe.tsv")
    return folder


@pytest.fixture(scope="module")
def results(here: pathlib.Path) -> dict[str, list]:
    ended = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_the_table_is_long_and_its_names_are_unique(here: pathlib.Path) -> None:
    names = [row.name for row in bad_inputs.rows(here)]
    assert len(names) == len(set(names)) >= 300
    commands = [row.words for row in bad_inputs.rows(here)]
    assert all(commands.count(words) == 1 for words in commands)


def test_messages(here: pathlib.Path, results: dict[str, list]) -> None:
    wrong = {}
    for row in bad_inputs.rows(here):
        status, out, errors, _, changed = results[row.name]
        wanted = f"hmoe: error: {row.message}\n"
        if (status, out, errors, changed) != (2, "", wanted, False):
            wrong[row.name] = (status, out, errors, changed)
    assert not wrong


def test_time_to_the_message(results: dict[str, list]) -> None:
    slow = {name: each[3] for name, each in results.items() if each[3] > 1}
    assert not slow
