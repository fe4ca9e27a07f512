"""Lines, tables, times, and the log beside them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from hmoe.startup import console
from hmoe.startup.errors import RunFailedError


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


def test_a_quiet_process_prints_errors_alone(tmp_path: Path) -> None:
    """As all do but the first of a run; its log has the rest, also from before it began."""
    code = (
        "from hmoe.startup.console import Console\n"
        "c = Console(quiet=True); c.say('before')\n"
        f"c.log_to({str(tmp_path / 'log')!r}); c.say('line'); c.answer('42'); c.error('wrong')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("", "wrong\n")
    assert (tmp_path / "log").read_text() == "hmoe: before\nhmoe: line\nhmoe: 42\n"


def test_control_characters_of_answers_are_visible() -> None:
    assert console.visible("a\x1b[2J\x07\x7f\x9b\n\u2028b") == "a\\x1b[2J\\x07\\x7f\\x9b\\n\\u2028b"
    # Spaces of French, marks of Arabic and Hebrew, tabs and emoji are text.
    text = "1\u202f000\xa0€ \u200f\u0661 \u05d0\t\U0001f600"
    assert console.visible(text) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_answers_in_a_file_are_as_they_are() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        console.Console(out=stream, errors=stream).answer("a\x1bb")
    assert (terminal.getvalue(), file.getvalue()) == ("a\\x1bb\n", "a\x1bb\n")


class Broken(io.StringIO):
    def __init__(self, error: OSError):
        super().__init__()
        self.error = error

    def flush(self) -> None:
        raise self.error


def test_lines_that_cannot_be_printed_are_dropped_and_answers_are_not() -> None:
    pipe = console.Console(out=Broken(BrokenPipeError(32, "Broken pipe")), errors=io.StringIO())
    pipe.say("a")
    with pytest.raises(console.ReaderGoneError):
        pipe.answer("a")
    full = console.Console(out=Broken(OSError(28, "No space")), errors=io.StringIO())
    full.say("a")
    with pytest.raises(RunFailedError, match=r"^cannot write to standard output: No space$"):
        full.answer("a")


def test_a_log_is_for_its_owner(tmp_path: Path) -> None:
    code = (
        "from hmoe.startup.console import Console\n"
        f"Console().log_to({str(tmp_path / 'log.txt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "log.txt").stat().st_mode & 0o777 == 0o600
