"""The command line: what it answers without TensorFlow, and its errors."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hmoe.cli import launch, main
from hmoe.startup import path_checks

USAGE = "usage: hmoe train [FLAG ...]\n"


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
    "split --model_dir=model --output_dir=model": "--output_dir 'model' is there already and not ",
}


def test_missing_files_are_found_before_tensorflow_is_imported(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "checkpoint").write_text("")
    code = (
        "import sys\nfrom hmoe.cli import main as cli\n"
        f"for line in {list(MISSING)!r}: assert cli.main(line.split()) == 1\n"
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
    flags = main.build_parser().parse_args(
        ["predict", "--model_dir=gs://a/model", "--gin_file=gs://a/b.gin", "--input_file=gs://a/c"]
    )
    path_checks.check(flags)


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
    flags = main.build_parser().parse_args(
        [
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
        ]
    )
    assert flags.gin_file == ["a.gin", "b.gin"]
    assert flags.gin_param == ["x = 1"]
    assert flags.gin_location_prefix == ["p", "q"]
    assert flags.module_import == ["m"]
    assert flags.additional_task_cache_dirs == ["c1", "c2"]
    assert flags.skip_all_gin_unknowns is False
    assert (flags.tpu, flags.tpu_zone, flags.gcp_project) == ("t", "z", "g")
    switched = main.build_parser().parse_args(["eval", "--skip_all_gin_unknowns"])
    assert switched.skip_all_gin_unknowns is True


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
    assert launch.default_model_dir(main.build_parser().parse_args(arguments)) == folder


def test_model_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    flags = main.build_parser().parse_args(["train", f"--model_dir={folder}"])
    with pytest.raises(ValueError) as error:
        launch.prepare_log(flags)
    assert str(error.value) == (
        f"model_dir '{folder}' cannot be written (Not a directory: '{folder}'); name another "
        "folder with --model_dir"
    )


def test_reading_commands_need_not_write(tmp_path: Path) -> None:
    flags = main.build_parser().parse_args(["predict", f"--model_dir={tmp_path}/none", "x"])
    assert launch.prepare_log(flags).endswith(".log")
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
        "hmoe: unexpected KeyError; the whole traceback is in a/log.txt"
    )
