"""Macros that nothing reads are found, and no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hmoe.startup import configuration, gin_files
from hmoe.startup.request import Request
from tests.storage import fake_checkpoints

# T5's files for other commands than training, each with its command.
FILES = {
    "infer.gin": "predict",
    "infer_multi_file.gin": "predict",
    "score_from_file.gin": "score",
    "score_from_task.gin": "score",
    "eval.gin": "eval",
    "score_eval.gin": "eval",
    "perplexity_eval.gin": "eval",
    "beam_search.gin": "predict",
    "sample_decode.gin": "predict",
    "greedy_decode.gin": "predict",
}


@pytest.mark.parametrize("name", FILES)
def test_copies_of_t5s_files_are_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In a folder of the user's own, where macros that nothing reads are warned of."""
    monkeypatch.chdir(tmp_path)
    Path("m").mkdir()
    fake_checkpoints.save(Path("m"), 600)
    shutil.copy(f"{gin_files.search_folders([])[0]}/{name}", "copy.gin")
    Path("lines").write_text("a\n", encoding="utf-8")
    command = FILES[name]
    lines = ["MIXTURE_NAME = 'cldr_formats'"]
    if name == "infer.gin":
        lines += ["input_filename = 'lines'"]
    if name == "score_from_file.gin":
        lines += ["inputs_filename = 'lines'", "targets_filename = 'lines'"]
    request = Request(
        command=command,
        model_dir="m",
        gin_file=("runs/tiny.gin", "copy.gin"),
        gin_param=tuple(lines),
    )
    assert configuration.check(request) == []


def test_the_name_of_the_mixture_is_read_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    request = Request(
        command="train",
        model_dir="new",
        gin_file=("runs/tiny.gin",),
        gin_param=("MIXTURE_NAME = 'cldr'", "MIXTURE_NAMES = 'cldr'"),
    )
    (warning,) = configuration.check(request)
    assert warning.startswith(
        "--gin_param \"MIXTURE_NAMES = 'cldr'\": nothing reads the macro MIXTURE_NAMES"
    )
