"""Examples that are longer than the model reads are counted before they are cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import seqio

from hmoe.compat.stack import tf
from hmoe.t5.data import cut_examples, files, tasks
from hmoe.t5.data.vocabularies import BYTES

PAIRS = "".join(f"say {n:02d}\tsaid {n:02d}\n" for n in range(40))


def warnings(name: str, inputs: int, targets: int) -> list[str | None]:
    counts = cut_examples.of_training(name, {"inputs": inputs, "targets": targets})
    return [count.warning() for count in counts]


def test_pairs_of_a_file_are_all_counted(tmp_path: Path) -> None:
    (tmp_path / "data.tsv").write_text(PAIRS + "a longer input\tb\n" * 2, encoding="utf-8")
    (tmp_path / "other.tsv").write_text("x\ty\n", encoding="utf-8")
    name = files.register(str(tmp_path / "data.tsv"), str(tmp_path / "other.tsv"))
    assert warnings(name, 16, 9) == []
    # The end mark counts: 14 bytes are 15 tokens.
    assert warnings(name, 15, 9) == [None, None]
    assert warnings(name, 14, 7) == [
        "Warning: 2 of 42 training inputs are cut at 14 tokens (the longest has 15); "
        'utils.run.sequence_length sets the length of "inputs"',
        "Warning: 40 of 42 training targets are cut at 7 tokens (the longest has 8); "
        'utils.run.sequence_length sets the length of "targets"',
    ]


def test_running_text_fills_the_lengths(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("one\n\ntwo\n\nthree\n", encoding="utf-8")
    assert warnings(files.register(str(tmp_path / "data.txt")), 4, 4) == []


def test_generated_examples_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*unused: object) -> None:
        raise AssertionError("the examples were read")

    monkeypatch.setattr(cut_examples, "count", read)
    assert warnings("cldr", 48, 64) == []
    with pytest.raises(AssertionError):
        warnings("cldr", 48, 63)


@pytest.fixture
def foreign() -> str:
    """A task as users register them."""
    name = "foreign_for_cut_examples"
    lines = ["a" * n for n in range(1, 1200)]

    def load(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices({"inputs": lines, "targets": lines})

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(load, splits=["train"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features=tasks.features(BYTES, ("inputs", "targets")),
    )
    yield name
    seqio.TaskRegistry.remove(name)


def test_the_first_examples_of_other_tasks(foreign: str) -> None:
    assert warnings(foreign, 992, 1001) == [
        f"Warning: 9 of 1000 inputs of the first examples of {foreign} are cut at 992 tokens (the "
        'longest has 1001); utils.run.sequence_length sets the length of "inputs"',
        None,
    ]


def test_examples_made_for_the_lengths_are_not_counted() -> None:
    def load() -> tf.data.Dataset:
        raise TypeError("'NoneType' object is not subscriptable")

    assert cut_examples.count(load, {"inputs": 3}, "of it") == []
