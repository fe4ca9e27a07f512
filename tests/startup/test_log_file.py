"""The log of a command: where it is, for whom, and when it is removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hmoe.startup import log_file, run_lock
from hmoe.startup.request import PlanFlags, Request
from hmoe.startup.workers import Workers
from hmoe.storage import disk_full


def begin(command: str, folder: Path) -> log_file.Log:
    return log_file.begin(Request(command=command, model_dir=str(folder)))


def test_model_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    with pytest.raises(ValueError) as error:
        begin("train", folder)
    assert str(error.value) == (
        f"model_dir '{folder}' cannot be written (Not a directory: '{folder}'); name another "
        "folder with --model_dir"
    )


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int, text: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError) as error:
        begin("train", tmp_path / "new" / "run")
    said = disk_full.message(error.value, "")
    assert said
    assert said.startswith(f"no space left to write {tmp_path}/new/run/log.txt (")
    assert list(tmp_path.iterdir()) == []
    log = begin("predict", tmp_path)
    assert log.is_temporary
    log.remove()


def test_a_model_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    log = begin("predict", tmp_path / "none")
    assert (log.is_temporary, list(tmp_path.iterdir())) == (True, [])
    log.withdraw()
    assert not os.path.exists(log.path)


def test_a_plan_writes_nothing_in_the_folder_of_a_model(tmp_path: Path) -> None:
    request = Request(command="plan", model_dir=str(tmp_path), plan=PlanFlags(reads_model_dir=True))
    log = log_file.begin(request)
    assert (log.is_temporary, list(tmp_path.iterdir())) == (True, [])
    with run_lock.held(request, print):
        assert list(tmp_path.iterdir()) == []
    log.remove()


def test_temporary_logs_have_names_that_nobody_foresees(tmp_path: Path) -> None:
    logs = [begin("predict", tmp_path / "none") for _ in range(2)]
    assert logs[0].path != logs[1].path
    for log in logs:
        assert str(os.getpid()) not in os.path.basename(log.path)
        assert os.stat(log.path).st_mode & 0o777 == 0o600
        log.remove()


def test_an_older_log_is_closed_to_others_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("before\n")
    path.chmod(0o644)
    log = begin("predict", tmp_path)
    assert (log.path, log.beside) == (str(path), None)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().startswith("before\n2")
    log.withdraw()
    assert path.exists()


@pytest.mark.parametrize("command", ["train", "predict"])
def test_links_are_not_followed(tmp_path: Path, command: str) -> None:
    """Somebody else's model must not make a command write to a file of the user's."""
    (tmp_path / "profile").write_text("mine")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "log.txt").symlink_to(tmp_path / "profile")
    log = begin(command, tmp_path / "model")
    assert log.is_temporary
    assert (tmp_path / "profile").read_text() == "mine"
    log.remove()


def test_a_pipe_in_its_place_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.txt")
    log = begin("predict", tmp_path)
    assert log.is_temporary
    log.remove()


def test_without_room_anywhere_there_is_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**settings: object) -> tuple[int, str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_file.tempfile, "mkstemp", fail)
    log = begin("predict", tmp_path / "none")
    assert log.path == os.devnull
    log.withdraw()
    assert os.path.exists(os.devnull)


def test_a_log_beside_other_files_that_were_there_is_withdrawn_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("")
    begin("train", tmp_path).withdraw()
    assert [each.name for each in tmp_path.iterdir()] == ["notes"]


def test_the_log_of_another_user_in_a_shared_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log.txt").write_text("theirs")
    opened = os.open

    def open_own(path: str, *arguments: int) -> int:
        if path == str(tmp_path / "log.txt"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", open_own)
    log = begin("train", tmp_path)
    assert log.is_temporary
    log.remove()


def begin_process(number: int, folder: Path) -> log_file.Log:
    workers = Workers(addresses=tuple(f"localhost:{1 + port}" for port in range(12)), index=number)
    return log_file.begin(Request(command="train", model_dir=str(folder), workers=workers))


def test_each_process_has_its_log(tmp_path: Path) -> None:
    logs = [begin_process(number, tmp_path / "m") for number in (0, 1, 11)]
    names = ["log.txt", "process_1.log", "process_11.log"]
    assert [os.path.basename(log.path) for log in logs] == names
    assert all(os.stat(log.path).st_mode & 0o777 == 0o600 for log in logs)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_processes_that_never_began_leave_no_log(tmp_path: Path, order: tuple[int, ...]) -> None:
    logs = [begin_process(number, tmp_path / "m") for number in range(3)]
    for number in order:
        logs[number].withdraw()
    # Whoever made the folder may have left before the others.
    assert not list(tmp_path.glob("m/*"))


def test_a_log_stays_beside_what_was_written(tmp_path: Path) -> None:
    logs = [begin_process(number, tmp_path / "m") for number in range(2)]
    (tmp_path / "m" / "process_x.log").touch()
    for log in logs:
        log.withdraw()
    assert sorted(os.listdir(tmp_path / "m")) == ["log.txt", "process_1.log", "process_x.log"]
