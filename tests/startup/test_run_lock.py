"""Two commands that would write to one folder."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from hmoe.startup import path_checks, run_lock
from hmoe.startup.request import Request
from hmoe.startup.workers import Workers

HOLDER = """
import sys
from hmoe.startup import run_lock
from hmoe.startup.request import Request
with run_lock.held(Request(command="train", model_dir=sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


def training(folder: Path) -> Request:
    return Request(command="train", model_dir=str(folder))


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds the lock of `tmp_path / "model"`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "model")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_refused_with_who_holds_it(tmp_path: Path, holder) -> None:
    model = tmp_path / "model"
    for request in (
        training(model),
        Request(command="split", model_dir="x", output_dir=str(model)),
    ):
        with pytest.raises(ValueError) as error, run_lock.held(request, pytest.fail):
            pass
        assert re.fullmatch(
            rf"'{re.escape(str(model))}' is in use by process {holder.pid} on "
            rf"{re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d; wait "
            "until that command ends, or name another folder. Two commands that write to one "
            "folder would lose each other's checkpoints",
            str(error.value),
        )
    for command in ("predict", "eval", "score", "export"):
        with run_lock.held(Request(command=command, model_dir=str(model)), pytest.fail):
            pass


def test_a_torn_file_about_the_holder(tmp_path: Path, holder) -> None:
    (tmp_path / "model" / run_lock.HOLDER_FILE).write_text('{"pid": 1')
    with (
        pytest.raises(ValueError) as error,
        run_lock.held(training(tmp_path / "model"), pytest.fail),
    ):
        pass
    assert str(error.value).startswith(f"'{tmp_path}/model' is in use by another process; wait ")


def test_a_dead_process_holds_nothing(tmp_path: Path, holder) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert sorted(os.listdir(tmp_path / "model")) == sorted(run_lock.FILES)
    path_checks.check_new_folder(str(tmp_path / "model"))
    with run_lock.held(training(tmp_path / "model"), pytest.fail):
        assert str(os.getpid()) in (tmp_path / "model" / run_lock.HOLDER_FILE).read_text()
    assert os.listdir(tmp_path / "model") == []


def test_a_command_that_writes_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with run_lock.held(training(tmp_path / "model"), pytest.fail):
        assert (tmp_path / "model" / run_lock.LOCK_FILE).exists()
    assert not (tmp_path / "model").exists()
    with run_lock.held(training(tmp_path / "model"), pytest.fail):
        (tmp_path / "model" / "log.txt").write_text("x")
    assert os.listdir(tmp_path / "model") == ["log.txt"]


def test_folders_without_a_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    for folder in ("gs://bucket/model", str(tmp_path / "file" / "model")):
        with run_lock.held(Request(command="train", model_dir=folder), said.append):
            pass
    assert os.listdir(tmp_path) == ["file"]
    assert said == [
        "Warning: 'gs://bucket/model' has no lock (it is on another machine); see to it that no "
        "other command writes to it meanwhile"
    ]


def test_a_disk_that_cannot_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    said: list[str] = []
    with run_lock.held(training(tmp_path), said.append):
        pass
    assert said == [
        f"Warning: '{tmp_path}' has no lock (No locks available); see to it that no other command "
        "writes to it meanwhile"
    ]


def test_a_lock_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    (tmp_path / run_lock.LOCK_FILE).touch()
    with pytest.raises(ValueError) as error, run_lock.held(training(tmp_path), pytest.fail):
        pass
    assert str(error.value) == (
        f"'{tmp_path}' is in use by another user, or that user's command was killed: .hmoe.lock in "
        "it is not yours. Name another folder, or have that file removed if no command of theirs "
        "runs"
    )


def test_the_first_process_holds_the_lock_for_all(tmp_path: Path, holder) -> None:
    def process(number: int) -> Request:
        workers = Workers(addresses=("localhost:1", "localhost:2"), index=number)
        return Request(command="train", model_dir=str(tmp_path / "model"), workers=workers)

    with run_lock.held(process(1), pytest.fail):
        pass
    with pytest.raises(ValueError, match="is in use"), run_lock.held(process(0), pytest.fail):
        pass
