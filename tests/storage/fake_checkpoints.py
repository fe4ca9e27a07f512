"""Checkpoints that hmoe's own files can be tested on without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from hmoe.storage import checkpoint_files, checkpoint_saving

# What every index ends with.
TABLE_END = bytes.fromhex("57fb808b247547db")


def write_files(prefix: str, text: str = "") -> None:
    """Writes two data files, then the index, as TensorFlow does."""
    for shard in range(2):
        Path(f"{prefix}.data-0000{shard}-of-00002").write_bytes(f"data {text} {shard}".encode() * 9)
    Path(f"{prefix}.index").write_bytes(f"index {text}".encode() * 9 + TABLE_END)


def save(folder: Path, step: int, retention: checkpoint_saving.Retention | None = None) -> None:
    """Saves a checkpoint with its manifest."""
    with checkpoint_saving.saving(str(folder), step, retention) as prefix:
        write_files(prefix, str(step))


def whole_steps(folder: Path) -> list[int]:
    """The steps of the whole checkpoints, the oldest first."""
    steps = sorted(checkpoint_files.saved_steps(str(folder)))
    return [step for step in steps if checkpoint_files.problem_of(str(folder), step) is None]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    """All files under a folder, by their paths in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
