"""The command line: what it answers without TensorFlow, and its errors."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hmoe.cli import launch, main
from hmoe.startup import request_checks
from hmoe.startup.request import Machine, Request

USAGE = "usage: hmoe train [FLAG ...]\n"


def request(*arguments: str) -> Request:
    return Request.from_flags(main.build_parser().parse_args(list(arguments)))


def exit_text(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main.main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_help_and_errors_import_no_tensorflow() -> None:
    code = (
        "import sys\nfrom hmoe.cli import main as cli\n"
        "for line in (['--help'], ['train', '--help'], ['--version'], ['train', '--bogus'], []):\n"
        "    try: cli.main(line)\n"
        "    except SystemExit: pass\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert 'numpy' not in sys.modules\n"
    )
    begun = time.time()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert time.time() - begun < 5
    assert "train a model" in result.stdout


MISSING = {
    "train --data=none.tsv": "none.tsv: there is no such file (looked in ",
    "train --data=. ": ". is a directory; give the file in it that holds the data",
    "train --gin_file=runs/defaul.gin": "gin file 'runs/defaul.gin' not found in ",
    "predict --model_dir=none x": "model_dir 'none' does not exist; train first ",
    "eval --model_dir=.": "model_dir '.' holds no checkpoint; train first ",
    "predict --model_dir=model --input_file=none.txt": "--input_file 'none.txt' does not exist",
    "score --model_dir=model --target_file=none.txt": "--target_file 'none.txt' does not exist",
    "split --model_dir=model --output_dir=model": "--output_dir 'model' exists and is not empty",
}


def test_missing_files_are_found_before_tensorflow_is_imported(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "checkpoint").write_text("")
    code = (
        "import sys\nfrom hmoe.cli import main as cli\n"
        f"for line in {list(MISSING)!r}: assert cli.main(line.split()) == 2\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    said = result.stderr.splitlines()
    assert len(said) == len(MISSING)
    for line, message in zip(said, MISSING.values()):
        assert line.startswith(f"hmoe: error: {message}")
    # Nothing was begun.
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_files_elsewhere_are_left_to_tensorflow() -> None:
    for command in ("predict", "eval", "score"):
        given = request(command, "--model_dir=gs://a/model", "--gin_file=gs://a/b.gin")
        inputs = {"input_file": "gs://a/c", "target_file": "gs://a/d"}
        assert request_checks.check(dataclasses.replace(given, **inputs)) == []
        assert request_checks.check(dataclasses.replace(given, gin_file=(), **inputs)) == []


def test_unknown_flag_with_a_suggestion(capsys: pytest.CaptureFixture) -> None:
    assert exit_text(capsys, "train", "--gin_fil=a.gin") == (
        USAGE + "hmoe train: error: unrecognized arguments: --gin_fil=a.gin; did you mean "
        "--gin_file?\n"
    )


def test_unknown_command(capsys: pytest.CaptureFixture) -> None:
    text = exit_text(capsys, "trian")
    usage = "usage: hmoe [-h] [--version] COMMAND ...\n"
    assert text.startswith(usage + "hmoe: error: argument COMMAND")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--vocabulary=x"], "hmoe train: error: --vocabulary goes with --data\n"),
        (["train", "--skip_bad_lines"], "hmoe train: error: --skip_bad_lines goes with --data\n"),
        (
            ["train", "--skip_all_gin_unknowns=maybe"],
            "hmoe train: error: argument --skip_all_gin_unknowns: expected true or false, got "
            "'maybe'\n",
        ),
        (
            ["split", "--model_dir=m"],
            "hmoe split: error: the following arguments are required: --output_dir\n",
        ),
        (
            ["predict", "x", "--input_file=f"],
            "hmoe predict: error: give either a text or --input_file\n",
        ),
        (
            ["predict", "--output_file=f"],
            "hmoe predict: error: --output_file goes with --input_file\n",
        ),
        (
            ["score", "--output_file=f"],
            "hmoe score: error: --output_file goes with --target_file\n",
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_flags_that_do_not_go_together(
    capsys: pytest.CaptureFixture, arguments: list, message: str
) -> None:
    assert exit_text(capsys, *arguments).endswith(f"\n{message}")


def test_t5_flags_are_understood() -> None:
    """As T5's documentation writes them, in absl's spellings."""
    assert request(
        "train",
        "--gin_file=a.gin",
        "--gin_file",
        "b.gin",
        "--gin_param=x = 1",
        "--gin_location_prefix=p,q",
        "--module_import=m",
        "--model_dir=d",
        "--tpu=t",
        "--tpu_zone=z",
        "--gcp_project=g",
        "--t5_tfds_data_dir=e",
        "--additional_task_cache_dirs=c1,c2",
        "--noskip_all_gin_unknowns",
        "--noevaluate",
    ) == Request(
        command="train",
        gin_file=("a.gin", "b.gin"),
        gin_param=("x = 1",),
        gin_location_prefix=("p", "q"),
        module_import=("m",),
        model_dir="d",
        machine=Machine(tpu="t", tpu_zone="z", gcp_project="g"),
        t5_tfds_data_dir="e",
        additional_task_cache_dirs=("c1", "c2"),
        evaluate=False,
    )
    assert request("eval", "--skip_all_gin_unknowns").skip_all_gin_unknowns is True


def test_every_flag_of_a_command_reaches_its_request() -> None:
    lines = {
        "train": [
            "--train_steps=3",
            "--data=d",
            "--vocabulary=v",
            "--skip_bad_lines",
            "--evaluate",
        ],
        "predict": ["some", "words"],
        "score": ["--input_file=i", "--target_file=t", "--output_file=o"],
        "export": ["--export_dir=e"],
        "split": ["--output_dir=n"],
    }
    changed = {
        command: {
            field.name: getattr(request(command, *line), field.name)
            for field in dataclasses.fields(Request)
            if field.name not in ("command", "model_dir")
            and getattr(request(command, *line), field.name) != field.default
        }
        for command, line in lines.items()
    }
    assert changed == {
        "train": {
            "train_steps": 3,
            "data": "d",
            "vocabulary": "v",
            "skip_bad_lines": True,
            "evaluate": True,
        },
        "predict": {"text": ("some", "words")},
        "score": {"input_file": "i", "target_file": "t", "output_file": "o"},
        "export": {"export_dir": "e"},
        "split": {"output_dir": "n"},
    }


def test_requests_are_frozen_and_have_a_field_for_every_flag() -> None:
    given = request("predict")
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.model_dir = "other"  # type: ignore[misc]
    hash(given)
    names = {field.name for kind in (Request, Machine) for field in dataclasses.fields(kind)}
    for command in ("train", "eval", "predict", "score", "export"):
        flags = vars(main.build_parser().parse_args([command]))
        assert set(flags) - names == {"parser"}


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["train"], "runs/default"),
        (["train", "--gin_file=a.gin", "--gin_file=x/b.gin"], "runs/b"),
        (["train", "--data=x/pairs.tsv"], "runs/pairs"),
        (["predict"], "runs/default"),
        (["eval", "--gin_file=eval.gin"], "runs/default"),
    ],
)
def test_default_model_dir(arguments: list, folder: str) -> None:
    assert request(*arguments).model_dir == folder


def test_model_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    with pytest.raises(ValueError) as error:
        launch.prepare_log(request("train", f"--model_dir={folder}"))
    assert str(error.value) == (
        f"model_dir '{folder}' cannot be written (Not a directory: '{folder}'); name another "
        "folder with --model_dir"
    )


def test_reading_commands_need_not_write(tmp_path: Path) -> None:
    path = launch.prepare_log(request("predict", f"--model_dir={tmp_path}/none", "x"))
    assert path.endswith(".log")
    assert not (tmp_path / "none").exists()


def test_errors_in_words(capsys: pytest.CaptureFixture) -> None:
    gin_error = ValueError("no\n  In call to configurable 'run' (<function run>)")
    assert launch.describe(gin_error, "log") == "hmoe: error: no"
    unbound = RuntimeError("Required bindings for `f` not provided in config: ['x']")
    assert launch.describe(unbound, "log") == (
        "hmoe: error: Required bindings for `f` not provided in config: ['x']\n"
        "Set them in a gin file or with --gin_param; a layout file (layouts/one_device.gin) sets "
        "the mesh"
    )
    assert launch.describe(KeyError("x"), "a/log.txt").endswith(
        "hmoe: unexpected KeyError; the full traceback is in a/log.txt"
    )
