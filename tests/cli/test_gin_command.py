"""`hmoe gin`: the files of the package listed, shown and copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.cli import gin_command, main
from hmoe.startup import gin_files


def out(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main.main(["gin", *arguments]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def error(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main.main(["gin", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_every_file_is_listed_with_a_sentence(capsys: pytest.CaptureFixture) -> None:
    lines = [line for line in out(capsys, "list").splitlines() if line]
    assert [line.split()[0] for line in lines] == gin_command.known_files()
    assert all(len(line.split(maxsplit=1)[1]) > 5 for line in lines)
    files = {
        str(p.relative_to(gin_files.folder())) for p in Path(gin_files.folder()).rglob("*.gin")
    }
    assert set(gin_command.known_files()) == files


def test_one_folder_is_listed(capsys: pytest.CaptureFixture) -> None:
    lines = out(capsys, "list", "runs").splitlines()
    assert all(line.startswith("runs/") for line in lines)
    assert "runs/default.gin               The default job" in lines
    assert error(capsys, "list", "run") == (
        "hmoe: error: there is no folder 'run' of gin files; did you mean 'runs'?\n"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# -*-Python-*-\n# One thing. And another.\n", "One thing"),
        ("# One thing\n# on two lines.\n#\n# More.\n", "One thing on two lines"),
        ("# T5 1.1 base, in 2.5 hours:\n#   hmoe train\n", "T5 1.1 base, in 2.5 hours"),
        ("x = 1\n# late\n", ""),
    ],
)
def test_first_sentence(text: str, sentence: str) -> None:
    assert gin_command.first_sentence(text) == sentence


@pytest.mark.parametrize("name", ["runs/tiny.gin", "runs/tiny", "tiny.gin", "tiny", "./runs/tiny"])
def test_a_file_is_shown_by_any_of_its_names(capsys: pytest.CaptureFixture, name: str) -> None:
    assert out(capsys, "show", name) == gin_command.read("runs/tiny.gin")


def test_the_whole_file_says_the_same_as_the_file(capsys: pytest.CaptureFixture) -> None:
    text = out(capsys, "show", "--whole", "runs/tiny.gin")
    assert "\ninclude " not in text
    lines = [line.strip() for line in text.splitlines()]
    assert lines.index("train_steps = 1200") < lines.index("train_steps = 4")
    assert text.startswith(gin_command.read("runs/tiny.gin").partition("\ninclude")[0])


def test_wrong_names(capsys: pytest.CaptureFixture) -> None:
    assert error(capsys, "show", "runs/defalt.gin") == (
        "hmoe: error: there is no gin file 'runs/defalt.gin' in this package; did you mean "
        "'runs/default.gin' or 'runs/default_dense.gin' or 'runs/default_one_level.gin'? (hmoe gin list)\n"
    )
    assert error(capsys, "copy", "zzzzzz") == (
        "hmoe: error: there is no gin file 'zzzzzz' in this package (hmoe gin list)\n"
    )


def test_a_copy_is_never_over_another_file(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert out(capsys, "copy", "default") == "Copied runs/default.gin to default.gin\n"
    assert (tmp_path / "default.gin").read_text() == gin_command.read("runs/default.gin")
    (tmp_path / "default.gin").write_text("mine")
    assert error(capsys, "copy", "default") == (
        "hmoe: error: 'default.gin' exists; name another file: hmoe gin copy runs/default.gin FILE\n"
    )
    assert (tmp_path / "default.gin").read_text() == "mine"
    (tmp_path / "folder").mkdir()
    out(capsys, "copy", "layouts/cpu_2x2.gin", "folder")
    out(capsys, "copy", "layouts/cpu_2x2.gin", "mine.gin")
    assert (tmp_path / "folder" / "cpu_2x2.gin").read_text() == (tmp_path / "mine.gin").read_text()
    assert error(capsys, "copy", "default", "none/mine.gin") == (
        "hmoe: error: 'none/mine.gin' cannot be written: the folder 'none' does not exist; make it "
        "first (mkdir -p none), or name another file\n"
    )
