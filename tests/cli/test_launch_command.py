"""`hmoe launch` as a command: what it refuses, and what it tells its processes."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hmoe.cli import launch_command, main
from tests.docs.pages import ROOT
from tests.launcher.launcher import STAND_IN
from tests.storage import fake_checkpoints

USAGE = "usage: hmoe launch [FLAG ...] -- COMMAND ...\nhmoe launch: error: "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("launch", "name the command to start, such as: hmoe launch -n 4 -- train"),
        ("launch -n 4 --", "name the command to start, such as: hmoe launch -n 4 -- train"),
        ("launch -n 4 -- export", "it starts train, eval, predict, score, trace, and not 'export'"),
        ("launch -n x -- train", "-n is 'x'; it must be an integer of at least 1"),
        ("launch -n 0 -- train", "-n is '0'; it must be an integer of at least 1"),
        (
            "launch -n 4 --hosts=a:1 --host_index=0 -- train",
            "give either -n, for this machine alone, or --hosts",
        ),
        ("launch --hosts=a:1 -- train", "--hosts goes with --host_index"),
        ("launch --host_index=0 -- train", "--host_index goes with --hosts"),
        ("launch --workers_per_host=2 -- train", "--workers_per_host goes with --hosts"),
        (
            "launch -n 4 --restarts=2 -- eval",
            "--restarts is for train, which goes on from what it saved, and not eval",
        ),
        ("launch -n 4 --restarts=-1 -- train", "--restarts is '-1'; it must be an integer from 0"),
        (
            "launch -n 4 --lost_after=0 -- train",
            "--lost_after is '0'; it must be a number of seconds above 0",
        ),
        (
            "launch -n 4 -- train --worker_index=1",
            "--worker_index is what it gives to each process; leave it out",
        ),
        (
            "launch -n 4 -- train --tpu=t",
            "--tpu is for one process, which drives the TPU; start it by itself",
        ),
    ],
)
def test_wrong_lines(capsys: pytest.CaptureFixture, line: str, message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(line.split())
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"{USAGE}{message}\n"


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Lets stand-ins run in place of `hmoe`; returns the folder of their run."""
    monkeypatch.setattr(launch_command, "program", lambda: (sys.executable, STAND_IN))
    monkeypatch.setenv("TF_CONFIG", "not JSON: of another run")
    return tmp_path / "m"


def words(folder: Path, number: int) -> list[str]:
    """Returns the words of the one start of a process, without its addresses."""
    [line] = (folder / f"starts_{number}").read_text().splitlines()
    [name, _, *others] = json.loads(line)[0]
    return [name, *others]


def test_train(stand_ins: Path, capfd: pytest.CaptureFixture) -> None:
    line = f"--gin_file=runs/tiny.gin --model_dir={stand_ins}"
    status = main.main(f"launch -n 4 --lost_after=0.4 --start_within=90 -- train {line}".split())
    out, error = capfd.readouterr()
    assert (status, error) == (0, "")
    assert out.splitlines() == [
        "Mesh axis 'rows' of 2 (outer_batch, expert_y) lies inside a host",
        "Mesh axis 'cols' of 2 (batch, expert_x, experts) lies inside a host",
        "Starting 4 processes: process 0 prints here, others write to "
        f"{stand_ins}/process_1.log to process_3.log",
        "line of 0",
    ]
    for number in range(4):
        assert words(stand_ins, number) == [
            "train", f"--worker_index={number}", "--lost_after=0.4", "--start_within=90",
            *line.split(),
        ]  # fmt: skip


def test_a_host_that_is_not_the_first(stand_ins: Path, capfd: pytest.CaptureFixture) -> None:
    """Its processes wait for those of the first host, which is not there, and are ended."""
    given = ["--hosts=127.0.0.1:21000,127.0.0.1:21010", "--host_index=1", "--workers_per_host=2"]
    code = (
        "import sys\nfrom hmoe.cli import launch_command, main\n"
        f"launch_command.program = lambda: (sys.executable, {STAND_IN!r})\n"
        "sys.exit(main.main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "launch", *given, "--", "train"]
        + ["--gin_file=runs/tiny.gin", f"--model_dir={stand_ins}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "STAND_IN": "no JSON"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stdout.splitlines() == [
        "Mesh axis 'rows' of 2 (outer_batch, expert_y) lies inside a host",
        "Mesh axis 'cols' of 2 (batch, expert_x, experts) crosses 2 hosts",
        "Starting processes 2 to 3 of 4: process 0 prints on 127.0.0.1:21000, others write to "
        f"{stand_ins}/process_2.log to process_3.log",
    ]
    assert not (stand_ins / "starts_0").exists()
    assert words(stand_ins, 3)[:2] == ["train", "--worker_index=3"]


@pytest.fixture
def trained(stand_ins: Path) -> Path:
    stand_ins.mkdir()
    fake_checkpoints.save(stand_ins, 1)
    (stand_ins / "config.gin").write_text("include 'runs/tiny.gin'\n")
    return stand_ins


def predict(folder: Path, *more: str) -> int:
    return main.main(["launch", "-n", "4", "--", "predict", f"--model_dir={folder}", *more])


class Piped(io.TextIOWrapper):
    """Standard input from a pipe."""

    def __init__(self, lines: bytes):
        super().__init__(io.BytesIO(lines), encoding="utf-8")


def test_lines_of_standard_input_reach_all(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped("één\ntwee\n".encode()))
    read = []
    run = launch_command.attempts.run

    def run_and_look(launch, *others):
        [flag] = [each for each in launch.flags if each.startswith("--input_file=")]
        path = Path(flag.removeprefix("--input_file="))
        read.append((path, path.read_text(encoding="utf-8"), path.stat().st_mode & 0o777))
        return run(launch, *others)

    monkeypatch.setattr(launch_command.attempts, "run", run_and_look)
    assert predict(trained) == 0
    [(path, text, mode)] = read
    assert (text, mode, path.exists()) == ("één\ntwee\n", 0o600, False)
    assert words(trained, 3)[1:3] == ["--worker_index=3", f"--input_file={path}"]
    out, error = capfd.readouterr()
    assert out == "line of 0\n"  # answers alone
    assert error.splitlines()[-1].startswith("Starting 4 processes: ")


def test_a_text_needs_no_standard_input(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert predict(trained, "hello", "you") == 0
    assert words(trained, 1)[1:] == ["--worker_index=1", f"--model_dir={trained}", "hello", "you"]


def test_no_prompt(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    terminal = Piped(b"")
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert predict(trained) == 2
    assert capfd.readouterr().err == (
        "hmoe: error: many processes cannot share a prompt; give a text or --input_file, or pipe "
        "lines to hmoe launch\n"
    )
    monkeypatch.setattr(sys, "stdin", Piped(b""))
    assert predict(trained) == 2
    assert capfd.readouterr().err == (
        "hmoe: error: standard input has no line; give a text or --input_file\n"
    )


def launched(*line: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "hmoe.cli.main", "launch", *line],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_bad_data_that_real_processes_find(tmp_path: Path) -> None:
    """The command itself, to the end of its checks: one message, and nothing left."""
    (tmp_path / "a.tsv").write_text("a\tb\nc\n")
    ended = launched("-n", "4", "--", "train", "--data=a.tsv", "--model_dir=m", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == (
        "hmoe: error: a.tsv, line 2: found 1 column (0 tabs); expected input, tab, target\n"
    )
    assert [each.name for each in tmp_path.iterdir()] == ["a.tsv"]


def test_two_processes_of_one_port(tmp_path: Path) -> None:
    """Each process opens its port before TensorFlow is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = launched(
            f"--hosts=127.0.0.1:{port},127.0.0.1:{port - 7}", "--host_index=0",
            "--workers_per_host=2", "--", "train", "--gin_file=runs/tiny.gin", "--model_dir=m",
            cwd=tmp_path,
        )  # fmt: skip
    assert ended.returncode == 2
    assert f"hmoe: error: port {port} of this machine, which --workers gives" in ended.stderr
