"""What training does to the folder that it takes up, and what it refuses before it does anything."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hmoe.t5.sessions import checkpoints
from tests.storage import fake_checkpoints as fake
from tests.t5 import tiny

DATA = "model.ckpt-4.data-00001-of-00002"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("trained")
    estimator = tiny.make(folder, save_checkpoints_steps=2)
    estimator.train(tiny.input_fn(tiny.ids(32)), max_steps=4)
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "model"))


def train(folder: Path, max_steps: int, lines: list[str] | None = None, **settings: object) -> None:
    estimator = tiny.make(folder, lines=lines, **settings)
    estimator.train(tiny.input_fn(tiny.ids(64)), max_steps=max_steps)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def refusal(folder: Path, **settings: object) -> str:
    """The error of a training, which changes nothing."""
    before = fake.contents(folder)
    with pytest.raises(ValueError) as error:
        train(folder, 6, **settings)
    assert fake.contents(folder) == before
    return str(error.value)


def test_the_newest_is_moved_aside_and_trained_again(copy: Path) -> None:
    flip(copy / DATA)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    lines: list[str] = []
    train(copy, 4, lines)
    assert [line for line in lines if "damaged" in line] == [
        f"model.ckpt-4 is damaged ({DATA} is damaged: its checksum is not that of when it was "
        f"saved): moved to {copy}/damaged",
        f"{copy}/metrics.jsonl: removed 1 damaged of 5 lines (line 5)",
    ]
    assert [line["step"] for line in tiny.curves(copy)] == [1, 2, 3, 4]
    assert checkpoints.latest(str(copy)) == f"{copy}/model.ckpt-4"


def test_damage_without_a_manifest_is_found_before_anything_changes(copy: Path) -> None:
    (copy / "model.ckpt-4.manifest.json").unlink()
    flip(copy / DATA)
    said = refusal(copy)
    assert said.startswith(f"checkpoint {copy}/model.ckpt-4 is damaged: TensorBundle at ")
    assert said.endswith(
        "Restore its files (model.ckpt-4.*) from a copy, or move them out of "
        f"'{copy}' to use model.ckpt-2"
    )


def test_refusals(copy: Path) -> None:
    said = refusal(copy, keep_checkpoint_max=-1)
    assert said.startswith("utils.run.keep_checkpoint_max = -1 would keep no checkpoint; it must ")
    said = refusal(copy, bindings=["d_ff_wide = 40"])
    assert said.startswith(f"checkpoint {copy}/model.ckpt-4 does not match the model: ")
    for path in copy.glob("*.index"):
        path.unlink()
    said = refusal(copy)
    assert said.startswith(f"no checkpoint in model_dir '{copy}' is whole (model.ckpt-4: ")


def test_beginning_anew(copy: Path) -> None:
    lines: list[str] = []
    settings = tiny.make(copy).settings
    estimator = type(tiny.make(copy))(settings, tiny.make(copy, lines=lines).session, True)
    assert estimator.latest_checkpoint() is None, "so that no data is skipped"
    estimator.train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    (where,) = copy.glob("overwritten-*")
    assert f"Beginning anew; the files of the run before are in {where}" in lines
    assert estimator.latest_checkpoint() == f"{copy}/model.ckpt-2"
    assert checkpoints.latest(str(where)) == f"{where}/model.ckpt-4"
    assert [len(tiny.curves(folder)) for folder in (copy, where)] == [2, 4]


def test_only_as_many_as_wanted_are_kept(copy: Path) -> None:
    train(copy, 7, keep_checkpoint_max=2, save_checkpoints_steps=1)
    steps = sorted(path.name for path in copy.glob("*.index"))
    assert steps == ["model.ckpt-6.index", "model.ckpt-7.index"]
