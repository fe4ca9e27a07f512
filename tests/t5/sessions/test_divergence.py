"""What is left after a loss that is not finite."""

from __future__ import annotations

from pathlib import Path

from hmoe.t5.sessions import divergence
from tests.storage import fake_checkpoints as fake


def test_the_checkpoint_with_the_wrong_weights_is_set_aside_for_a_whole_one(tmp_path: Path) -> None:
    for step in (2, 4):
        fake.save(tmp_path, step)
    assert divergence.what_is_left_of(str(tmp_path), 5, 0) == (
        f"{tmp_path}/model.ckpt-4, whose weights give this loss, was moved to {tmp_path}/diverged; "
        f"the last good checkpoint is {tmp_path}/model.ckpt-2, from which the next start resumes"
    )


def test_the_only_whole_checkpoint_stays(tmp_path: Path) -> None:
    for step in (2, 4):
        fake.save(tmp_path, step)
    (tmp_path / "model.ckpt-2.index").write_bytes(b"")
    before = fake.contents(tmp_path)
    assert divergence.what_is_left_of(str(tmp_path), 5, 0) == (
        f"{tmp_path}/model.ckpt-4, the newest checkpoint, holds the weights that give this loss: "
        "if another configuration does not help, move its files away and resume from another"
    )
    assert fake.contents(tmp_path) == before
