"""Lines in, answers out: `predict` and `score` through the command, in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.t5 import server
from tests.t5.commands.test_commands import PARAMETERS

pytestmark = pytest.mark.slow

STEP = 2


@pytest.fixture(scope="module")
def trained(hmoe: server.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pairs of the user's own, of which some inputs and targets are too long."""
    folder = tmp_path_factory.mktemp("run")
    pairs = [f"say {i:03d}\tsaid {i:03d}\n" for i in range(198)]
    pairs += ["say it again\tsaid it again and again\n", "say it again and again\tsaid it\n"]
    (folder / "pairs.tsv").write_text("".join(pairs), encoding="utf-8")
    result = hmoe(
        "train",
        f"--data={folder}/pairs.tsv",
        f"--model_dir={folder}/model",
        "--noevaluate",
        *[f"--gin_param={p}" for p in PARAMETERS],
        f"--gin_param=train_steps = {STEP}",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "said").write_text(result.stdout, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(trained: Path) -> str:
    return f"--model_dir={trained}/model"


# A byte order mark, a line end of Windows, blank lines, one of spaces, one that is cut, no last end.
FILE = b"\xef\xbb\xbfsay 017\r\n\n   \nsay 018\nsay 018, and once more\n\nsay 017"
LINES = ["say 017", "", "   ", "say 018", "say 018, and once more", "", "say 017"]
CUT = (
    "Warning: 1 of 4 lines is cut at 16 tokens (the first is line 5, the longest has 23); "
    'utils.run.sequence_length sets the length of "inputs"'
)


@pytest.fixture(scope="module")
def answers(hmoe: server.Server, model: str) -> list[str]:
    """To each of the lines, as arguments of their own."""
    result = hmoe("predict", model, *[line for line in LINES if line.strip()])
    assert result.returncode == 0, result.stderr
    given = iter(result.stdout.split("\n"))
    found = [next(given) if line.strip() else "" for line in LINES]
    assert (list(given), found[0]) == ([""], found[-1])
    return found


def test_files_and_standard_input_have_as_many_answers_as_lines(
    hmoe: server.Server, trained: Path, model: str, answers: list[str]
) -> None:
    (trained / "lines").write_bytes(FILE)
    expected = "".join(f"{answer}\n" for answer in answers)
    filed = hmoe("predict", model, f"--input_file={trained}/lines")
    assert (filed.returncode, filed.stdout) == (0, expected)
    assert filed.stderr.splitlines()[-1] == CUT
    piped = hmoe("predict", model, stdin=FILE)
    assert (piped.returncode, piped.stdout) == (0, expected)
    assert piped.stderr.splitlines()[-1] == CUT
    target = trained / "new folder" / "answers"
    written = hmoe("predict", model, f"--input_file={trained}/lines", f"--output_file={target}")
    assert (written.returncode, written.stdout) == (0, "")
    assert written.stderr.splitlines()[-2:] == [f"Wrote 7 answers to {target}", CUT]
    assert target.read_text(encoding="utf-8") == expected
    assert os.listdir(target.parent) == ["answers"]


def test_bindings_of_t5_write_the_same_text(
    hmoe: server.Server, trained: Path, model: str, answers: list[str]
) -> None:
    (trained / "lines").write_bytes(FILE)
    named = hmoe(
        "predict",
        model,
        f"--gin_param=decode_from_file.input_filename = '{trained}/lines'",
        f"--gin_param=decode_from_file.output_filename = '{trained}/decoded'",
    )
    assert named.returncode == 0, named.stderr
    written = (trained / f"decoded-{STEP}").read_text(encoding="utf-8")
    assert written == "".join(f"{answer}\n" for answer in answers)
    missing = hmoe("predict", model, "--gin_param=decode_from_file.input_filename = 'none'")
    assert (missing.returncode, missing.stderr.splitlines()[-1]) == (
        1,
        "hmoe: error: decode_from_file.input_filename 'none' does not exist",
    )


def test_lines_before_a_bad_one_are_answered(
    hmoe: server.Server, trained: Path, model: str, answers: list[str]
) -> None:
    bad = b"say 017\nsay 018\ncaf\xe9\nsay 017\n"
    piped = hmoe("predict", model, stdin=bad)
    assert piped.returncode == 1
    assert piped.stdout == f"{answers[0]}\n{answers[3]}\n"
    assert piped.stderr.splitlines()[-1] == (
        "hmoe: error: standard input, line 3: found byte 0xe9 at column 4, which is not UTF-8 "
        "(unexpected end of data); expected text in UTF-8"
    )


def test_no_lines(hmoe: server.Server, model: str) -> None:
    piped = hmoe("predict", model)
    assert (piped.returncode, piped.stdout) == (0, "")


@pytest.fixture(scope="module")
def scores(hmoe: server.Server, trained: Path, model: str) -> Iterator[list[str]]:
    (trained / "in").write_text("say 017\n\nsay it again and again\n", encoding="utf-8")
    (trained / "out").write_text("said 017\nsaid nothing\n\n", encoding="utf-8")
    scored = hmoe(
        "score",
        model,
        f"--input_file={trained}/in",
        f"--target_file={trained}/out",
    )
    assert scored.returncode == 0, scored.stderr
    assert scored.stderr.splitlines()[-1] == (
        "Warning: 1 of 3 inputs is cut at 16 tokens (the first is line 3, the longest has 23); "
        'utils.run.sequence_length sets the length of "inputs"'
    )
    yield scored.stdout.splitlines()


def test_scores_of_files(
    hmoe: server.Server, trained: Path, model: str, scores: list[str]
) -> None:
    assert len(scores) == 3
    written = hmoe(
        "score",
        model,
        f"--input_file={trained}/in",
        f"--target_file={trained}/out",
        f"--output_file={trained}/of",
    )
    assert (written.returncode, written.stdout) == (0, ""), written.stderr
    of_file = (trained / "of.scores").read_text(encoding="utf-8").splitlines()
    assert [f"{float(number):.2f}" for number in of_file] == [f"{float(n):.2f}" for n in scores]
    assert (trained / "of.inputs").read_bytes() == (trained / "in").read_bytes()
    assert (trained / "of.targets").read_bytes() == (trained / "out").read_bytes()
    assert (trained / "of.lengths").read_text(encoding="utf-8") == "9\n13\n1\n"


def test_scores_of_gin(hmoe: server.Server, trained: Path, model: str, scores: list[str]) -> None:
    sources = [
        f"--gin_param=score_from_strings.inputs = '{trained}/in'",
        f"--gin_param=score_from_strings.targets = '{trained}/out'",
    ]
    printed = hmoe("score", model, *sources)
    assert (printed.returncode, printed.stdout.splitlines()) == (0, scores)
    saved = hmoe(
        "score",
        model,
        *sources,
        "--gin_param=score_from_strings.score_postprocess_fn = @utils.save_scores",
        f"--gin_param=utils.save_scores.scores_filename = '{trained}/upstream'",
    )
    assert saved.returncode == 0, saved.stderr
    numbers = (trained / "upstream.scores").read_text(encoding="utf-8").splitlines()
    assert [f"{float(number):.2f}" for number in numbers] == [f"{float(n):.2f}" for n in scores]
    assert (trained / "upstream.targets").read_text("utf-8") == "said 017\nsaid nothing\n\n"


def test_scores_of_a_dataset(hmoe: server.Server, trained: Path, model: str) -> None:
    scored = hmoe(
        "score",
        model,
        "--gin_param=utils.run.mode = 'score_from_dataset'",
        "--gin_param=score_from_dataset.score_dataset_fn = @mesh_eval_dataset_fn",
        "--gin_param=score_from_dataset.score_postprocess_fn = @utils.save_scores",
        f"--gin_param=utils.save_scores.scores_filename = '{trained}/held_out'",
    )
    assert scored.returncode == 0, scored.stderr
    targets = (trained / "held_out.targets").read_text(encoding="utf-8").splitlines()
    assert targets
    assert all(target.startswith("said ") for target in targets)
    assert len((trained / "held_out.scores").read_text(encoding="utf-8").splitlines()) == len(targets)


def test_what_cannot_be_scored(hmoe: server.Server, trained: Path, model: str) -> None:
    (trained / "one").write_text("said 017\n", encoding="utf-8")
    alone = hmoe("score", model, f"--target_file={trained}/one")
    assert (alone.returncode, alone.stderr.splitlines()[-1]) == (
        1,
        "hmoe: error: a model of utils.run.model_type = 'bitransformer' scores targets beside their "
        "inputs; name the file of inputs with --input_file (only an 'lm' scores targets alone)",
    )
    nothing = hmoe("score", model)
    assert (nothing.returncode, nothing.stderr.splitlines()[-1]) == (
        1,
        "hmoe: error: there is nothing to score: name the file of targets with --target_file, and "
        "that of their inputs with --input_file; in gin, score_from_strings.targets and .inputs",
    )
