"""A model after a few steps, which commands that look into it are tested with."""

from __future__ import annotations

from pathlib import Path

from tests.t5 import server

#: The same groups on every mesh.
SAME = (
    "batch_size = 16",
    "train_steps = 3",
    "tpu_estimator_model_fn.outer_batch_size = 2",
    "hmoe.HierarchicalMoE.inserted_outer_batch = 2",
    "hmoe.HierarchicalMoE.exact_groups = True",
    "group_size = 32",
    "inner_group_size = 40",
    "mesh_eval_dataset_fn.num_eval_examples = 21",
    "hmoe.HierarchicalMoE.metrics = 'full'",
)


def run(hmoe: server.Server, *arguments: str) -> str:
    """Returns what a command prints that succeeds."""
    result = hmoe(*arguments)
    assert result.returncode == 0, f"{arguments}\n{result.stdout}{result.stderr}"
    return result.stdout


def train(hmoe: server.Server, folder: Path) -> Path:
    """Trains the model into a folder, and returns that."""
    parameters = [f"--gin_param={each}" for each in SAME]
    run(hmoe, "train", "--gin_file=runs/tiny.gin", f"--model_dir={folder}", *parameters)
    return folder
