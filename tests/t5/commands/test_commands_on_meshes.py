"""The tiny job by the command itself: the same curves, scores and answers on every mesh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tolerances
from tests.t5 import server

pytestmark = pytest.mark.slow

TWO_AXES = "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows"
#: Mesh and layout rules; the second is T5's usual one.
MESHES = {
    "one device": ("", ""),
    "model:1,batch:4": (
        "model:1,batch:4",
        "batch:batch,d_ff:model,heads:model,vocab:model,expert_x:batch",
    ),
    "2 x 2": ("rows:2;cols:2", TWO_AXES),
    "4 x 1": ("rows:4;cols:1", TWO_AXES),
}
SAME = (
    "batch_size = 16",
    "train_steps = 4",
    "tpu_estimator_model_fn.outer_batch_size = 4",
    "hmoe.HierarchicalMoE.inserted_outer_batch = 4",
    "hmoe.HierarchicalMoE.exact_groups = True",
    "group_size = 32",
    "inner_group_size = 40",
    "hmoe.Session.log_every_steps = 1",
    "save_every_steps = 4",
    "hmoe.FeedForwardExperts.dropout_rate = 0.1",
    "dropout_rate = 0.1",
    "mesh_eval_dataset_fn.num_eval_examples = 24",
    "hmoe.HierarchicalMoE.metrics = 'full'",
)
LINES = "de full date: 2037-07-15 Wed\nfr long money: 12.50 EUR\nes unit: 3 km\n"
TARGETS = "Mittwoch, 15. Juli 2037\n12,50 euros\n3 km\n"
#: Of time, and not of the model.
TIMES = ("time", "steps_per_second", "tokens_per_second")


def parameters(mesh: str) -> list[str]:
    shape, rules = MESHES[mesh]
    count = 1 if mesh == "one device" else 4
    return [
        f"--gin_param={each}"
        for each in (
            *SAME,
            f"utils.run.mesh_shape = {shape!r}",
            f"utils.run.layout_rules = {rules!r}",
            f"utils.run.mesh_devices = {[''] * count!r}",
        )
    ]


def lines_of(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in found]


def run_all(hmoe: server.Server, folder: Path, mesh: str) -> dict[str, Any]:
    """Curves of training, numbers of evaluation, scores and answers."""
    model = folder / "model"
    (folder / "lines").write_text(LINES, encoding="utf-8")
    (folder / "targets").write_text(TARGETS, encoding="utf-8")
    flags = [f"--model_dir={model}"]

    def run(*arguments: str) -> str:
        result = hmoe(*arguments)
        assert result.returncode == 0, f"{mesh}: {arguments}\n{result.stdout}{result.stderr}"
        return result.stdout

    run("train", "--gin_file=runs/tiny.gin", *flags, *parameters(mesh))
    run("eval", *flags)
    run("predict", *flags, f"--input_file={folder}/lines", f"--output_file={folder}/answers")
    scored = run("score", *flags, f"--input_file={folder}/lines", f"--target_file={folder}/targets")
    (evaluated,) = model.glob("*_eval/metrics.jsonl")
    return {
        "curves": lines_of(model / "metrics.jsonl"),
        "evaluation": lines_of(evaluated),
        "scores": [float(line) for line in scored.splitlines()[-3:]],
        "answers": (folder / "answers").read_text(encoding="utf-8"),
    }


@pytest.fixture(scope="module")
def alone(hmoe: server.Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_all(hmoe, tmp_path_factory.mktemp("alone"), "one device")


@pytest.mark.parametrize("mesh", [mesh for mesh in MESHES if mesh != "one device"])
def test_every_command_gives_the_numbers_of_one_device(
    hmoe: server.Server, alone: dict[str, Any], tmp_path: Path, mesh: str
) -> None:
    found = run_all(hmoe, tmp_path, mesh)
    assert [line["step"] for line in found["curves"]] == [1, 2, 3, 4]
    for kind in ("curves", "evaluation"):
        for mine, its in zip(found[kind], alone[kind]):
            assert sorted(mine) == sorted(its)
            for name, value in its.items():
                tolerances.assert_close(mine[name], value, tolerances.MESHES, f"{kind} {name}")
    # Printed with four digits.
    assert found["scores"] == pytest.approx(alone["scores"], abs=2e-4)
    assert all(score < 0 for score in found["scores"])
    assert found["answers"] == alone["answers"]
