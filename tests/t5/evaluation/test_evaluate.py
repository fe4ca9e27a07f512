"""The replacement of upstream's `eval_model`: its files, its report, and its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest
from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.t5.data import scores, tasks
from hmoe.t5.evaluation import evaluate
from hmoe.t5.sessions import checkpoints
from tests.t5 import tiny

TEXTS = [("ab", "c"), ("xyz", "de"), ("q", "f")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    tiny.make(folder).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    return folder


def eval_dataset_fn(sequence_length: Any, vocabulary: Any, dataset_split: str) -> list[tuple]:
    assert dataset_split == "validation"
    sides = {
        "inputs": [inputs for inputs, _ in TEXTS],
        "targets": [targets for _, targets in TEXTS],
    }
    columns = {f"{side}_pretokenized": texts for side, texts in sides.items()}
    columns.update({side: tiny.rows_of_texts(texts)[: len(TEXTS)] for side, texts in sides.items()})

    def dataset(sequence_length: Any = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(columns)

    def first(sequence_length: Any = None) -> tf.data.Dataset:
        return dataset().take(1)

    return [
        ("mine", dataset, tasks.keep_text, [scores.exact_match]),
        ("without_metrics", first, None, []),
    ]


def run(trained: Path, lines: list[str], **more: Any) -> None:
    evaluate.eval_model_function(lines.append)(
        lambda sequence_length: tiny.make(trained, sequence_length=sequence_length),
        tiny.VOCABULARY,
        {"inputs": tiny.LENGTH, "targets": tiny.LENGTH},
        tiny.BATCH,
        "validation",
        str(trained),
        eval_dataset_fn,
        None,
        -1,
        **more,
    )


def test_files_and_report(trained: Path) -> None:
    lines: list[str] = []
    run(trained, lines)
    folder = trained / "validation_eval"
    assert (folder / "mine_inputs").read_text().split() == ["ab", "xyz", "q"]
    assert (folder / "mine_targets").read_text().split() == ["c", "de", "f"]
    assert (folder / "mine_2_predictions").exists()
    (line,) = [json.loads(each) for each in (folder / "metrics.jsonl").read_text().splitlines()]
    assert line["step"] == 2
    assert {"eval/mine/exact_match", "eval/cross_ent_loss"} < set(line)
    # The text of each target and its end.
    assert line["eval/mine/num_eval_tokens"] == 2 + 3 + 2
    assert line["eval/without_metrics/num_eval_tokens"] == 2
    assert line["eval/num_eval_tokens"] == 2 + 3 + 2 + 2
    together = sum(
        line[f"eval/{name}/cross_ent_loss"] * line[f"eval/{name}/num_eval_tokens"]
        for name in ("mine", "without_metrics")
    )
    assert line["eval/cross_ent_loss"] * 9 == pytest.approx(together)
    assert "mine, step 2: 3 held-out examples" in lines
    assert any(text.startswith("without_metrics, step 2: 1 held-out examples; ") for text in lines)
    assert not (folder / "without_metrics_targets").exists()


def test_suffix_of_the_folder_and_no_examples(trained: Path) -> None:
    run(trained, [], output_eval_examples=False, eval_dir_suffix="more")
    folder = trained / "validation_eval_more"
    assert (folder / "metrics.jsonl").exists()
    assert not (folder / "mine_inputs").exists()


def test_evaluation_by_scores_is_upstreams(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    monkeypatch.setattr(utils, "eval_model", lambda *given, **named: calls.append((given, named)))
    run(trained, [], eval_with_score=True)
    ((given, named),) = calls
    assert given[4:6] == ("validation", str(trained))
    assert named == {"eval_with_score": True}


@pytest.mark.parametrize("asked", ["all", None, -1])
def test_what_training_removes_meanwhile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Any
) -> None:
    """Where all checkpoints are asked for; the newest alone is chosen again by the command."""
    evaluated: list[str] = []

    def fail_for_one(request: Any, prepared: Any, path: str) -> Any:
        if path == "m/model.ckpt-1":
            raise checkpoints.RemovedError(path)
        evaluated.append(path)
        return [], {}

    given = ["m/model.ckpt-1", "m/model.ckpt-2"]
    monkeypatch.setattr(evaluate, "checkpoint_paths", lambda *arguments: iter(given))
    monkeypatch.setattr(evaluate, "_evaluate_checkpoint", fail_for_one)
    monkeypatch.setattr(evaluate.task_examples, "load_tasks", lambda *arguments: [])
    monkeypatch.setattr(evaluate.task_examples, "longest", lambda tasks: {})
    monkeypatch.setattr(evaluate.report, "print_evaluation", lambda *arguments: None)
    monkeypatch.setattr(evaluate.result_files, "write", lambda *arguments: None)
    lines: list[str] = []
    evaluate_model = evaluate.eval_model_function(lines.append)

    def act() -> None:
        evaluate_model(
            lambda **named: None, None, {}, 8, "validation", str(tmp_path), None, None, asked
        )

    if asked == -1:
        with pytest.raises(checkpoints.RemovedError):
            act()
        return
    act()
    assert evaluated == ["m/model.ckpt-2"]
    assert lines == ["m/model.ckpt-1 was removed before it was evaluated, and is left out"]


def test_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        evaluate.checkpoint_paths(-1, str(tmp_path))
    assert str(error.value).startswith(f"model_dir '{tmp_path}' holds no checkpoint; train first ")


def test_upstreams_bindings_choose_among_all_checkpoints(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoints.write(str(tmp_path), step, {"w": np.zeros(1, np.float32)})

    def steps(asked: object, **arguments: int) -> list[int]:
        paths = evaluate.checkpoint_paths(asked, str(tmp_path), **arguments)
        return [checkpoints.step_of(path) for path in paths]

    assert steps("all", skip_until=1, stop_after=4) == [2, 3, 4]
    assert steps("all") == [1, 2, 3, 4, 5]
    assert steps([2, 5], skip_until=3) == [2, 5]
    gin.clear_config()
    gin.parse_config("get_checkpoint_iterator.skip_until = %first\nfirst = 3")
    try:
        assert steps("all") == [4, 5]
    finally:
        gin.clear_config()
