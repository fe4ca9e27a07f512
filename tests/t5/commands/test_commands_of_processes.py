"""The tiny job by several processes: what they train, save, evaluate and answer is one process's."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hmoe.launcher.processes import free_ports
from tests import tolerances
from tests.t5 import server, tiny
from tests.t5.commands.test_commands_on_meshes import LINES, TARGETS, TWO_AXES, lines_of

pytestmark = pytest.mark.slow

LENGTH = 96
SAME = (
    "batch_size = 16",
    "train_steps = 4",
    "save_every_steps = 2",
    "tpu_estimator_model_fn.outer_batch_size = 4",
    "hmoe.HierarchicalMoE.inserted_outer_batch = 4",
    "hmoe.HierarchicalMoE.exact_groups = True",
    "hmoe.HierarchicalMoE.metrics = 'full'",
    "hmoe.TopKRouter.policy_train = 'random'",
    "hmoe.TopKRouter.bias_update_rate = 0.01",
    "hmoe.FeedForwardExperts.dropout_rate = 0.1",
    "dropout_rate = 0.1",
    "group_size = 32",
    "inner_group_size = 30",
    "hmoe.Session.log_every_steps = 1",
    "mesh_eval_dataset_fn.num_eval_examples = 24",
    "utils.run.keep_checkpoint_max = None",
)


class Mesh(NamedTuple):
    """A mesh of processes.

    Attributes:
      shape: its shape.
      batch_split: how many parts it splits the inner batch into.
    """

    shape: str
    batch_split: int


MESHES = {
    1: Mesh("", 1),
    2: Mesh("rows:2;cols:1", 1),
    4: Mesh("rows:2;cols:2", 2),
    8: Mesh("rows:4;cols:2", 2),
}


def parameters(count: int, *more: str, microbatches: int = 2) -> list[str]:
    """Returns the gin parameters of a run by some processes.

    Args:
      count: the number of processes.
      *more: more bindings.
      microbatches: how many there are in a step.
    """
    mesh = MESHES[count]
    rows = 16 // 4 // mesh.batch_split // microbatches
    tokens = rows * LENGTH if microbatches > 1 else None
    return [
        f"--gin_param={each}"
        for each in (
            *SAME,
            f"utils.run.mesh_shape = {mesh.shape!r}",
            f"utils.run.layout_rules = {TWO_AXES if mesh.shape else ''!r}",
            f"utils.run.mesh_devices = {[''] * count!r}",
            f"utils.serialize_num_microbatches.tokens_per_microbatch_per_replica = {tokens}",
            *more,
        )
    ]


@pytest.fixture(scope="module")
def run(hmoe: server.Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a command in a number of processes, as `hmoe launch` starts them; returns the output."""

    def run_them(count: int, *words: str) -> str:
        folder = tmp_path_factory.mktemp("files")
        ports = free_ports(count)
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        commands = []
        for index in range(count):
            files = [str(folder / f"{name}{index}") for name in ("in", "out", "err")]
            for file in files:
                Path(file).touch()
            flags = [f"--workers={addresses}", f"--worker_index={index}"] if count > 1 else []
            commands.append(([*words, *flags], files))
        ends = hmoe.run_together(commands)
        texts = ["".join(Path(file).read_text("utf-8") for file in f[1:]) for _, f in commands]
        assert ends == [0] * count, "\n".join([f"{words}: {ends}", *texts])
        return (folder / "out0").read_text("utf-8")

    return run_them


@pytest.fixture(scope="module")
def trained(
    run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """Returns the folder of a run of four steps by a number of processes."""

    @functools.cache
    def train(count: int) -> Path:
        folder = tmp_path_factory.mktemp(f"of{count}")
        flags = ["--gin_file=runs/tiny.gin", f"--model_dir={folder}"]
        run(count, "train", *flags, *parameters(count))
        return folder

    return train


COUNTS = [pytest.param(8) if count == 8 else count for count in MESHES if count > 1]


def assert_same_weights(folder: Path, other: Path) -> None:
    """Compares all variables of the newest checkpoints, those of the optimizer too."""
    mine, its = tiny.weights(folder), tiny.weights(other)
    assert sorted(mine) == sorted(its)
    for name, value in its.items():
        assert mine[name].shape == value.shape, name
        tolerances.assert_close(mine[name], value, tolerances.MESHES, name)


def assert_same_lines(mine: list[dict[str, Any]], its: list[dict[str, Any]]) -> None:
    assert len(mine) == len(its)
    for line, other in zip(mine, its):
        assert sorted(line) == sorted(other)
        for name, value in other.items():
            tolerances.assert_close(line[name], value, tolerances.MESHES, name)


@pytest.mark.parametrize("count", COUNTS)
def test_training_gives_the_weights_and_curves_of_one_process(
    trained: Callable[[int], Path], count: int
) -> None:
    alone, many = trained(1), trained(count)
    assert_same_weights(many, alone)
    mine, its = (lines_of(folder / "metrics.jsonl") for folder in (many, alone))
    assert [line["step"] for line in mine] == [1, 2, 3, 4]
    assert_same_lines(mine, its)
    after = tiny.weights(many)
    biases = [value for name, value in after.items() if name.endswith("balance_bias")]
    assert biases
    assert all(np.abs(value).max() > 0.005 for value in biases)
    assert {f"process_{index}.log" for index in range(1, count)} <= {
        path.name for path in many.iterdir()
    }


def evaluate(run: Callable[..., str], count: int, model: Path, folder: Path) -> dict[str, Any]:
    """Returns the numbers of an evaluation, answers and scores."""
    (folder / "lines").write_text(LINES, encoding="utf-8")
    (folder / "targets").write_text(TARGETS, encoding="utf-8")
    flags = [f"--model_dir={model}", *parameters(count)]
    run(count, "eval", *flags)
    (evaluated,) = model.glob("*_eval/metrics.jsonl")
    found: dict[str, Any] = {"evaluation": lines_of(evaluated)}
    for name, size in (("greedy", 1), ("beam", 3)):
        run(
            count,
            "predict",
            *flags,
            f"--gin_param=Bitransformer.decode.beam_size = {size}",
            f"--input_file={folder}/lines",
            f"--output_file={folder}/{name}",
        )
        found[name] = (folder / name).read_text(encoding="utf-8")
    files = [f"--input_file={folder}/lines", f"--target_file={folder}/targets"]
    scored = run(count, "score", *flags, *files)
    found["scores"] = [float(line) for line in scored.splitlines()[-3:]]
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_evaluation_answers_and_scores_are_those_of_one_process(
    run: Callable[..., str], trained: Callable[[int], Path], tmp_path: Path, count: int
) -> None:
    found = []
    for number in (count, 1):
        (tmp_path / str(number)).mkdir()
        found.append(evaluate(run, number, trained(number), tmp_path / str(number)))
    many, alone = found
    assert_same_lines(many["evaluation"], alone["evaluation"])
    assert many["greedy"] == alone["greedy"]
    assert many["beam"] == alone["beam"]
    assert many["scores"] == pytest.approx(alone["scores"], abs=2e-4)
    assert all(score < 0 and math.isfinite(score) for score in many["scores"])


def test_a_run_goes_on_in_another_number_of_processes(
    run: Callable[..., str], trained: Callable[[int], Path], tmp_path: Path
) -> None:
    """Two steps by four processes, one by one, one by two: the run that was never interrupted."""
    folders = [tmp_path / name for name in ("parts", "whole")]
    for folder, parts in zip(folders, (((4, 2), (1, 3), (2, 4)), ((1, 4),))):
        flags = ["--gin_file=runs/tiny.gin", f"--model_dir={folder}"]
        for count, steps in parts:
            # A schedule would end with the steps that a command is to take.
            given = (f"utils.run.train_steps = {steps}", "utils.run.learning_rate_schedule = 0.01")
            run(count, "train", *flags, *parameters(count, *given, microbatches=1))
    assert_same_weights(*folders)
    assert_same_lines(*[lines_of(folder / "metrics.jsonl") for folder in folders])


def test_one_process_exports_what_four_have_saved(
    run: Callable[..., str], trained: Callable[[int], Path], tmp_path: Path
) -> None:
    answers = []
    for count in (4, 1):
        folder = tmp_path / str(count)
        run(1, "export", f"--model_dir={trained(count)}", f"--export_dir={folder}", *parameters(1))
        (exported,) = folder.iterdir()
        (lines,) = tiny.answers_of_export(str(exported), LINES.splitlines())
        answers.append(lines)
    assert answers[0] == answers[1]


def test_checkpoint_holds_whole_variables(trained: Callable[[int], Path]) -> None:
    """As one process's, by TensorFlow's own reader, and of no more files than parts."""
    mine, its = (tiny.weights(trained(count)) for count in (4, 1))
    assert {name: value.shape for name, value in mine.items()} == {
        name: value.shape for name, value in its.items()
    }
    assert not [name for name in mine if "slice" in name]


def test_each_process_writes_its_part(trained: Callable[[int], Path]) -> None:
    """Every number once, and the experts in four equal parts."""
    sizes = [
        path.stat().st_size for path in sorted(trained(4).glob("model.ckpt-4.data-0000?-of-00004"))
    ]
    variables = tiny.weights(trained(4)).values()
    assert sum(sizes) == sum(value.nbytes for value in variables)
    experts = [value.nbytes for name, value in tiny.weights(trained(4)).items() if "/wi" in name]
    assert experts
    assert len(sizes) == 4
    assert min(sizes) >= sum(experts) / 4
    assert max(sizes) < 0.4 * sum(sizes)
