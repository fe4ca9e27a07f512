"""T5's own command, with nothing of ours but the layers, tasks and gin files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hmoe import compat

SIZES = (
    "d_model = 16",
    "d_ff = 24",
    "num_blocks = 1",
    "num_heads = 2",
    "d_kv = 8",
    "group_size = 16",
    "num_outer_experts = 2",
    "num_inner_experts = 2",
)


@pytest.mark.slow
@pytest.mark.skipif(
    not compat.tpu_estimator_is_real(), reason="T5's trainer needs TensorFlow's Estimator"
)
def test_t5_trains_with_our_layers(tmp_path: Path) -> None:
    arguments = [
        "t5.models.mesh_transformer_main",
        "--module_import=hmoe.t5",
        f"--model_dir={tmp_path}",
        "--gin_file=models/hierarchical_tiny.gin",
        "--gin_file=layouts/cpu_2x2.gin",
        "--gin_file=tasks/cldr_formats.gin",
        *[f"--gin_param={size}" for size in SIZES],
        "--gin_param=utils.run.sequence_length = {'inputs': 16, 'targets': 16}",
        "--gin_param=utils.run.batch_size = ('sequences_per_batch', 8)",
        "--gin_param=utils.run.train_steps = 2",
        "--gin_param=utils.run.learning_rate_schedule = 0.001",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "hmoe.compat", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "model.ckpt-2.index").exists()
    used = (tmp_path / "operative_config.gin").read_text(encoding="utf-8")
    assert "HierarchicalMoE.levels" in used
