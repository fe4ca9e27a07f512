"""Lines in, answers out: `predict` and `score` through the command, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from tests import patience, signals
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


def of_t5(trained: Path, name: str, *lines: str) -> list[str]:
    """Words for one of T5's own gin files after a model's, as T5's command takes them."""
    # A task of bytes stands in for the data of the user's own, which gin files do not register.
    lines = ("MIXTURE_NAME = 'cldr_formats'", *lines)
    return [
        f"--model_dir={trained}/model",
        f"--gin_file={trained}/model/config.gin",
        f"--gin_file={name}",
        *[f"--gin_param={line}" for line in lines],
    ]


def test_t5s_own_gin_file_answers_a_file(
    hmoe: server.Server, trained: Path, answers: list[str]
) -> None:
    (trained / "lines").write_bytes(FILE)
    names = (f"input_filename = '{trained}/lines'", f"output_filename = '{trained}/inferred'")
    repeats = ("decode_from_file.repeats = %twice", "twice = 2")
    named = hmoe("predict", *of_t5(trained, "infer.gin", *names, *repeats))
    assert named.returncode == 0, named.stderr
    written = (trained / f"inferred-{STEP}").read_text(encoding="utf-8")
    assert written == "".join(f"{answer}\n" * 2 for answer in answers)


def test_lines_before_a_bad_one_are_answered(
    hmoe: server.Server, trained: Path, model: str, answers: list[str]
) -> None:
    bad = b"say 017\nsay 018\ncaf\xe9\nsay 017\n"
    piped = hmoe("predict", model, stdin=bad)
    assert piped.returncode == 2
    assert piped.stdout == f"{answers[0]}\n{answers[3]}\n"
    assert piped.stderr.splitlines()[-1] == (
        "hmoe: error: standard input, line 3: byte 0xe9 at column 4 is not UTF-8; give text in UTF-8"
    )


def test_a_line_is_answered_before_the_next_and_interrupting_ends_the_command(
    model: str, answers: list[str]
) -> None:
    words = [sys.executable, "-m", "hmoe.cli.main", "predict", model]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    begin = {"env": server.environment(), "preexec_fn": signals.as_in_a_terminal}
    with subprocess.Popen(words, **pipes, **begin) as process:
        for line, answer in zip(LINES[:4], answers):
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline() == f"{answer}\n".encode()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=patience.HANG) == 130
        assert process.stderr.read().endswith(b"Interrupted.\n")


def test_no_lines(hmoe: server.Server, model: str) -> None:
    piped = hmoe("predict", model)
    assert (piped.returncode, piped.stdout) == (0, "")
    assert piped.stderr.splitlines()[-1] == (
        "Standard input holds no line, so there is nothing to answer"
    )


@pytest.fixture(scope="module")
def scores(hmoe: server.Server, trained: Path, model: str) -> list[str]:
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
    return scored.stdout.splitlines()


def test_scores_of_files(hmoe: server.Server, trained: Path, model: str, scores: list[str]) -> None:
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


def test_t5s_own_gin_file_scores_a_file(
    hmoe: server.Server, trained: Path, scores: list[str]
) -> None:
    names = [
        f"{each}s_filename = '{trained}/{file}'"
        for each, file in (("input", "in"), ("target", "out"), ("score", "by_t5"))
    ]
    saved = hmoe("score", *of_t5(trained, "score_from_file.gin", *names))
    assert saved.returncode == 0, saved.stderr
    numbers = (trained / "by_t5.scores").read_text(encoding="utf-8").splitlines()
    assert [f"{float(number):.2f}" for number in numbers] == [f"{float(n):.2f}" for n in scores]


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
    assert len((trained / "held_out.scores").read_text(encoding="utf-8").splitlines()) == len(
        targets
    )


def test_training_warns_of_examples_that_are_cut(trained: Path) -> None:
    said = (trained / "said").read_text(encoding="utf-8").splitlines()
    warnings = [line for line in said if line.startswith("Warning: ")]
    assert len(warnings) == 2
    for warning, feature, longest in zip(warnings, ("inputs", "targets"), (23, 24)):
        assert re.fullmatch(
            rf"Warning: 1 of 1\d\d training {feature} is cut at 16 tokens \(the longest has {longest}"
            rf'\); utils.run.sequence_length sets the length of "{feature}"',
            warning,
        )


def test_the_printed_program_uses_an_exported_model(
    hmoe: server.Server, model: str, answers: list[str]
) -> None:
    exported = hmoe("export", model)
    assert exported.returncode == 0, exported.stderr
    program = exported.stdout[exported.stdout.index("import tensorflow") :]
    lines = ", ".join(f'"{line}"' for line in LINES * 3)
    assert '"a line", "another"' in program
    program = program.replace('"a line", "another"', lines)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, cwd=os.sep, env={"PATH": ""}
    )
    assert ran.returncode == 0, ran.stderr
    assert "".join(ran.stdout.decode("utf-8").split()) == "".join(
        str(np.array([answer.encode("utf-8") for answer in answers * 3], object)).split()
    )


def train_on_text(hmoe: server.Server, folder: Path) -> subprocess.CompletedProcess:
    return hmoe(
        "train",
        f"--data={folder}/text.txt",
        f"--vocabulary={folder}/pieces.model",
        f"--model_dir={folder}/model",
        *[f"--gin_param={p}" for p in PARAMETERS],
        f"--gin_param=train_steps = {STEP}",
    )


@pytest.fixture(scope="module")
def text(hmoe: server.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on running text of the user's own, by the README's own command, with a vocabulary."""
    folder = tmp_path_factory.mktemp("text")
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    lines = [" ".join(words[i % 10 :] + words[: i % 7]) for i in range(120)]
    (folder / "text.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "pieces"),
        vocab_size=26,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    result = train_on_text(hmoe, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "said").write_text(result.stdout, encoding="utf-8")
    return folder


def test_the_same_vocabulary_again_is_no_change(hmoe: server.Server, text: Path) -> None:
    """The run keeps a copy of it under another path."""
    again = train_on_text(hmoe, text)
    assert again.returncode == 0, again.stderr
    assert "nothing to train" in again.stdout
    assert "Changed since" not in again.stdout


def of_teacher_forcing(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("Teacher forcing, ")]


def test_running_text_is_evaluated_by_teacher_forcing_the_same_each_time(
    hmoe: server.Server, text: Path
) -> None:
    said = (text / "said").read_text(encoding="utf-8")
    assert "the task has no metrics of its own, so it is evaluated by teacher forcing alone" in said
    (first,) = of_teacher_forcing(said)
    assert re.fullmatch(r"Teacher forcing, all tasks: cross_ent_loss \d.*", first)
    again = hmoe("eval", f"--model_dir={text}/model")
    assert again.returncode == 0, again.stderr
    assert of_teacher_forcing(again.stdout) == [first]
    (line,) = (text / "model" / "validation_eval" / "metrics.jsonl").read_text().splitlines()
    name = next(name for name in json.loads(line) if name.startswith("eval/data_text_"))
    assert json.loads(line)[name] == json.loads(line)[f"eval/{name.split('/')[-1]}"]


def test_a_model_answers_without_its_data_wherever_its_folder_is(
    hmoe: server.Server, text: Path
) -> None:
    before = hmoe("predict", f"--model_dir={text}/model", "one two")
    assert before.returncode == 0, before.stderr
    for name in ("text.txt", "pieces.model"):
        (text / name).rename(text / f"{name}.away")
    (text / "model").rename(text / "moved")
    try:
        after = hmoe("predict", f"--model_dir={text}/moved", "one two")
        assert (after.returncode, after.stdout) == (0, before.stdout), after.stderr
        missing = hmoe("eval", f"--model_dir={text}/moved")
        assert (missing.returncode, missing.stderr) == (
            2,
            f"hmoe: error: {text}/text.txt, which the model in {text}/moved was trained with, does "
            f'not exist; put it back, or write where it is as "data" into {text}/moved/run.json\n',
        )
    finally:
        (text / "moved").rename(text / "model")
        for name in ("text.txt", "pieces.model"):
            (text / f"{name}.away").rename(text / name)
