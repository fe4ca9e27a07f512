"""The command at a terminal, in pipes, with closed streams, and in a locale without UTF-8."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.t5 import server
from tests.t5.commands.test_commands import PARAMETERS
from tests.t5.terminal import ARROW_UP, CTRL_C, CTRL_D, Terminal

pytestmark = pytest.mark.slow

# A locale without UTF-8, which Python is told to believe.
ASCII = {
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
    "TERM": "dumb",
}


@pytest.fixture(scope="module")
def hmoe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Server]:
    running = server.Server(tmp_path_factory.mktemp("server"), **ASCII)
    yield running
    running.close()


@pytest.fixture(scope="module")
def trained(hmoe: server.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was begun with `hmoe train | head -1`; its folder has a space in its name."""
    folder = tmp_path_factory.mktemp("run")
    pairs = "".join(f"sag {i:03d}\tgesagt: ä {i:03d}\n" for i in range(200))
    (folder / "pairs.tsv").write_text(pairs, encoding="utf-8")
    (folder / "errors").write_text("")
    with Pipe() as pipe:
        lines = ReadingOneLine(pipe.reading)
        status = hmoe.run_on(
            [os.devnull, pipe.path, str(folder / "errors")],
            "train",
            f"--data={folder}/pairs.tsv",
            f"--model_dir={folder}/a model",
            *[f"--gin_param={p}" for p in PARAMETERS],
        )
    assert (status, (folder / "errors").read_text(encoding="utf-8")) == (0, "")
    assert lines.text().startswith("Loading TensorFlow (log: ")
    shutil.copy(folder / "a model" / "log.txt", folder / "log of the training")
    return folder


class Pipe:
    """A pipe that another process can open by a path."""

    def __enter__(self) -> Pipe:
        self.reading, self._writing = os.pipe()
        self.path = f"/proc/{os.getpid()}/fd/{self._writing}"
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._writing)


class ReadingOneLine:
    """Reads a line of a pipe in a thread and closes it then, as `head -1` does."""

    def __init__(self, number: int):
        self._number = number
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def text(self) -> str:
        self._thread.join()
        return self._lines[0]

    def _read(self) -> None:
        with os.fdopen(self._number, encoding="utf-8") as file:
            self._lines.append(file.readline())


def test_training_goes_on_when_nobody_reads(trained: Path) -> None:
    folder = trained / "a model"
    assert (folder / "model.ckpt-4.index").exists()
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()] == [2, 4]
    log = (trained / "log of the training").read_text(encoding="utf-8")
    assert "hmoe: Nothing more is printed: Broken pipe\n" in log
    assert "Traceback" not in log


def test_predict_ends_quietly_when_nobody_reads(hmoe: server.Server, trained: Path) -> None:
    (trained / "lines").write_text("sag 001\n" * 40, encoding="utf-8")
    (trained / "errors").write_text("")
    with Pipe() as pipe:
        lines = ReadingOneLine(pipe.reading)
        status = hmoe.run_on(
            [str(trained / "lines"), pipe.path, str(trained / "errors")],
            "predict",
            f"--model_dir={trained}/a model",
        )
    assert status == 141
    assert lines.text().endswith("\n")
    errors = (trained / "errors").read_text(encoding="utf-8")
    assert errors.endswith("\nPreparing to decode ...\n")
    assert "rror" not in errors


def test_closed_streams(hmoe: server.Server, trained: Path) -> None:
    model = f"--model_dir={trained}/a model"
    assert hmoe.run_on([None, None, None], "predict", model) == 0
    assert hmoe.run_on([None, None, None], "predict", "--model_dir=none") == 2


def test_a_full_disk_behind_standard_output(hmoe: server.Server, trained: Path) -> None:
    (trained / "errors").write_text("")
    files = [os.devnull, "/dev/full", str(trained / "errors")]
    assert hmoe.run_on(files, "predict", f"--model_dir={trained}/a model", "sag 001") == 1
    errors = (trained / "errors").read_text(encoding="utf-8").splitlines()
    assert errors[-1] == ("hmoe: error: cannot write to standard output: No space left on device")


def test_evaluation_in_a_locale_without_utf8(hmoe: server.Server, trained: Path) -> None:
    done = hmoe("eval", f"--model_dir={trained}/a model")
    assert (done.returncode, done.stderr) == (0, "")
    assert "gesagt: ä" in done.stdout


def test_prompt(hmoe: server.Server, trained: Path) -> None:
    """It stands on the terminal; the arrow brings back lines; Ctrl-C ends it."""
    terminal = Terminal(
        lambda path: hmoe.run_on([path] * 3, "predict", f"--model_dir={trained}/a model")
    )
    terminal.read_until("\r\n> ")
    terminal.type("sag 007\r")
    terminal.read_until("Preparing to decode ...\r\n")
    answer = terminal.read_until("\r\n> ").split("\r\n")[0]
    terminal.type(ARROW_UP + "\r")
    assert "sag 007" in terminal.read_until("\n")
    assert terminal.read_until("> ").split("\r\n")[0] == answer
    terminal.type(CTRL_C)
    assert terminal.end().replace("^C", "") == "\r\nInterrupted.\r\n"
    assert terminal.status == 130
    assert "\n> " not in (trained / "a model" / "log.txt").read_text(encoding="utf-8")


def test_prompt_beside_answers_in_a_file(hmoe: server.Server, trained: Path) -> None:
    """The prompt is on the terminal, the answers alone are in the file; Ctrl-D ends it."""
    (trained / "answers").write_text("")
    terminal = Terminal(
        lambda path: hmoe.run_on(
            [path, str(trained / "answers"), path], "predict", f"--model_dir={trained}/a model"
        )
    )
    terminal.read_until("> ")
    terminal.type("sag 007\n")
    terminal.read_until("> ")
    terminal.type(CTRL_D)
    assert terminal.end() == "\r\n"
    assert terminal.status == 0
    assert (trained / "answers").read_text(encoding="utf-8").count("\n") == 1
