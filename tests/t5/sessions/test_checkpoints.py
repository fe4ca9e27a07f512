"""Folders without a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.t5.sessions import checkpoints


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        checkpoints.require_latest(str(tmp_path))
    assert str(error.value) == (
        f"model_dir '{tmp_path}' holds no checkpoint; train first (hmoe train "
        f"--model_dir={tmp_path}), or name the folder of a trained model with --model_dir"
    )
    with pytest.raises(ValueError) as error:
        checkpoints.require_latest(str(tmp_path / "none"))
    assert str(error.value) == (
        f"model_dir '{tmp_path}/none' does not exist; train first (hmoe train "
        f"--model_dir={tmp_path}/none), or name the folder of a trained model with --model_dir"
    )
