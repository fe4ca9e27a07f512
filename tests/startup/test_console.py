"""Lines, tables, times, and the log beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hmoe.startup import console


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (11220, "3 h 07 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_table() -> None:
    assert console.table(["kind", "count"], [["date", "3"], ["a", "12,000"]]) == [
        "kind   count",
        "----  ------",
        "date       3",
        "a     12,000",
    ]


def test_log_takes_standard_error_and_errors_still_show(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom hmoe.startup.console import Console\n"
        f"c = Console(); c.log_to({str(tmp_path / 'log.txt')!r})\n"
        "os.write(2, b'from C++\\n'); print('from Python', file=sys.stderr, flush=True)\n"
        "c.say('line'); c.error('wrong')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("line\n", "wrong\n")
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert log == "from C++\nfrom Python\n"
