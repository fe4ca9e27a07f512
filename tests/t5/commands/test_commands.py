"""The command from end to end, in processes of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from hmoe.analysis import traces
from hmoe.t5.sessions import checkpoints
from tests import tolerances
from tests.t5 import server, tiny

pytestmark = pytest.mark.slow

PARAMETERS = (
    "d_model = 16",
    "d_ff = 24",
    "num_blocks = 1",
    "num_heads = 2",
    "d_kv = 8",
    "group_size = 16",
    "num_outer_experts = 2",
    "num_inner_experts = 2",
    "batch_size = 8",
    "train_steps = 4",
    "utils.run.sequence_length = {'inputs': 16, 'targets': 16}",
    "hmoe.Session.log_every_steps = 2",
    # One device: what the commands do on a mesh is the models' and the estimator's to show.
    'utils.run.mesh_shape = ""',
    'utils.run.layout_rules = ""',
    'utils.run.mesh_devices = [""]',
    "tpu_estimator_model_fn.outer_batch_size = 1",
    "hmoe.HierarchicalMoE.inserted_outer_batch = 1",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pairs of the user's own."""
    folder = tmp_path_factory.mktemp("run")
    pairs = "".join(f"say {i:03d}\tsaid {i:03d}\n" for i in range(200))
    (folder / "pairs.tsv").write_text(pairs, encoding="utf-8")
    result = server.once(
        "train",
        f"--data={folder}/pairs.tsv",
        f"--model_dir={folder}/model",
        *[f"--gin_param={p}" for p in PARAMETERS],
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "said").write_text(result.stdout, encoding="utf-8")
    assert result.stderr == ""
    return folder


PIPED = "say 017\nsay 018\n"


@pytest.fixture(scope="module")
def answers(hmoe: server.Server, trained: Path) -> list[str]:
    """To two lines of standard input."""
    return answers_of(hmoe, trained / "model")


def answers_of(hmoe: server.Server, model: Path) -> list[str]:
    piped = hmoe("predict", f"--model_dir={model}", stdin=PIPED)
    assert piped.returncode == 0, piped.stderr
    return piped.stdout.splitlines()[-2:]


def test_training_says_what_it_does(trained: Path) -> None:
    said = (trained / "said").read_text(encoding="utf-8")
    for line in (
        "Building the model ...",
        "step 2 of 4 | loss ",
        "step 4 of 4 | loss ",
        "the model ",
        "copying the input ",
        "the most frequent target ",
        "predictions beside their references",
        "cross_ent_loss",
        "imbalance (max / mean)",
        f"Checkpoint   {trained}/model/model.ckpt-4",
        f"Log          {trained}/model/log.txt",
    ):
        assert line in said, line
    assert "tensorflow" in (trained / "model" / "log.txt").read_text(encoding="utf-8").lower()


def test_training_that_evaluates_traces_and_reports(trained: Path) -> None:
    said = (trained / "said").read_text(encoding="utf-8")
    evaluated = re.search(r", step 4: (\d+) held-out examples", said)
    assert evaluated
    manifest = traces.read(str(trained / "model" / "trace-4.parquet")).manifest
    assert (manifest.step, manifest.num_examples) == (4, int(evaluated[1]))
    assert f" of {evaluated[1]} examples to {trained}/model/trace-4.parquet\n" in said
    assert f"\nWrote {trained}/model/report.html, and its " in said
    page = (trained / "model" / "report.html").read_text(encoding="utf-8")
    assert "trace of step 4" in page


def test_predict_answers_a_text_a_file_and_standard_input(
    hmoe: server.Server, trained: Path, answers: list[str]
) -> None:
    model = f"--model_dir={trained}/model"
    one = hmoe("predict", model, "say 017")
    assert one.returncode == 0, one.stderr
    (trained / "lines.txt").write_text("say 017\nsay 018\nsay 019\n", encoding="utf-8")
    filed = hmoe(
        "predict",
        model,
        f"--input_file={trained}/lines.txt",
        f"--output_file={trained}/answers.txt",
    )
    assert f"Wrote 3 answers to {trained}/answers.txt" in filed.stderr
    of_file = (trained / "answers.txt").read_text(encoding="utf-8").split("\n")
    assert len(of_file) == 4
    assert len(answers) == 2


def test_score_and_export(hmoe: server.Server, trained: Path) -> None:
    (trained / "in").write_text("say 017\nsay 018\n", encoding="utf-8")
    (trained / "out").write_text("said 017\nsaid 018\n", encoding="utf-8")
    model = f"--model_dir={trained}/model"
    scored = hmoe("score", model, f"--input_file={trained}/in", f"--target_file={trained}/out")
    assert scored.returncode == 0, scored.stderr
    numbers = [float(line) for line in scored.stdout.splitlines() if line.startswith("-")]
    assert len(numbers) == 2
    exported = hmoe("export", model)
    assert exported.returncode == 0, exported.stderr
    (folder,) = (trained / "model" / "export").iterdir()
    assert (folder / "saved_model.pb").exists()


def test_split_gives_the_same_answers_and_merge_undoes_it(
    hmoe: server.Server, trained: Path, answers: list[str]
) -> None:
    for command, source, target in (("split", "model", "single"), ("merge", "single", "whole")):
        made = hmoe(command, f"--model_dir={trained}/{source}", f"--output_dir={trained}/{target}")
        assert made.returncode == 0, made.stderr
        assert made.stdout.endswith(
            f" variables of {trained}/{target}/model.ckpt-4, without those of the optimizer. To "
            f"answer: hmoe predict --model_dir={trained}/{target}\n"
        )
    assert answers_of(hmoe, trained / "single") == answers
    before, after = tiny.weights(trained / "model"), tiny.weights(trained / "whole")
    assert set(after) == {name for name in before if "_slot_" not in name}
    assert all((before[name] == value).all() for name, value in after.items())
    again = hmoe("split", f"--model_dir={trained}/model", f"--output_dir={trained}/single")
    assert (again.returncode, again.stderr) == (
        2,
        f"hmoe: error: --output_dir '{trained}/single' exists and is not empty; name a new folder\n",
    )


def test_errors_are_one_message(hmoe: server.Server, tmp_path: Path) -> None:
    none = server.once("predict", f"--model_dir={tmp_path}/none", "x")
    assert (none.returncode, none.stderr) == (
        2,
        f"hmoe: error: model_dir '{tmp_path}/none' does not exist; train first (hmoe train "
        f"--model_dir={tmp_path}/none), or name the folder of a trained model with --model_dir\n",
    )
    missing = hmoe("train", f"--data={tmp_path}/none.tsv", f"--model_dir={tmp_path}/m")
    assert missing.returncode == 2
    assert missing.stderr.startswith("hmoe: error: ")
    assert f"{tmp_path}/none.tsv" in missing.stderr
    typo = hmoe("train", f"--model_dir={tmp_path}/m", "--gin_param=hmoe.Level.num_expert = 3")
    assert typo.stderr.startswith("hmoe: error: --gin_param 'hmoe.Level.num_expert = 3': ")
    assert "did you mean 'num_experts'?" in typo.stderr


def test_activations_in_bfloat16(hmoe: server.Server, trained: Path, tmp_path: Path) -> None:
    """The same run but for rounding; weights stay float32, and it answers."""
    flags = [
        f"--gin_param={p}" for p in (*PARAMETERS, "hmoe.Session.activation_dtype = 'bfloat16'")
    ]
    result = hmoe("train", f"--data={trained}/pairs.tsv", f"--model_dir={tmp_path}", *flags)
    assert result.returncode == 0, result.stderr
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]
        for folder in (trained / "model", tmp_path)
    ]
    assert losses[0] != losses[1]
    tolerances.assert_close(*losses, tolerances.BFLOAT16)
    read = checkpoints.read(str(tmp_path / "model.ckpt-4"))
    assert {value.dtype for name, value in read.items() if name != "global_step"} == {
        np.dtype(np.float32)
    }
    answers = hmoe("predict", f"--model_dir={tmp_path}", *flags[-1:], stdin=PIPED)
    assert answers.returncode == 0, answers.stderr
