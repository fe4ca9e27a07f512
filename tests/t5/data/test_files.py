from __future__ import annotations

import builtins
import gzip

import numpy as np
import pytest
import sentencepiece
import seqio
import tensorflow_datasets as tfds
from t5.models import mesh_transformer

from hmoe.compat.stack import tf
from hmoe.startup.data_files.digest import digest
from hmoe.t5.data import files, scores, tasks, vocabularies
from hmoe.t5.data.vocabularies import BYTES

LENGTHS = {"inputs": 32, "targets": 32}


@pytest.fixture(autouse=True)
def graph():
    with tf.Graph().as_default():
        yield


def write(folder, name, content):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode("utf-8")
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def many_pairs(count, prefix="in"):
    return "".join(f"{prefix} {n}\tout {n}\n" for n in range(count))


def texts(name, split):
    (dataset,) = mesh_transformer.mesh_eval_dataset_fn(name, LENGTHS, split)
    return [
        (scores.field_of(example, "inputs"), scores.field_of(example, "targets"))
        for example in tfds.as_numpy(dataset.dataset_fn())
    ]


@pytest.mark.parametrize("file_name", ["data.tsv", "data.tsv.gz"])
def test_pairs_with_a_part_held_out(tmp_path, file_name):
    name = files.register(write(tmp_path, file_name, many_pairs(400)))
    training, validation = texts(name, "train"), texts(name, "validation")
    assert sorted(training + validation) == sorted((f"in {n}", f"out {n}") for n in range(400))
    assert 8 < len(validation) < 40
    assert all(digest(inputs) % 20 == 0 for inputs, _ in validation)
    report = files.report(name)
    assert (report.num_training, report.num_validation) == (len(training), len(validation))
    assert report.summary() == (
        f"{tmp_path / file_name}: {len(training)} pairs for training, {len(validation)} for "
        "validation (held out by a hash of the input, since there is no validation data); longest "
        "input 6 bytes, longest target 7 bytes"
    )


def test_pairs_with_validation_data(tmp_path):
    data = write(tmp_path, "data.tsv", many_pairs(3))
    other = write(tmp_path, "other.tsv", "längster\tb\n")
    name = files.register(data, validation_data=other)
    assert texts(name, "train") == [("in 0", "out 0"), ("in 1", "out 1"), ("in 2", "out 2")]
    assert texts(name, "validation") == [("längster", "b")]
    assert files.report(name).summary() == (
        f"{data}: 3 pairs for training, 1 for validation (from {other}); longest input 9 bytes, "
        "longest target 5 bytes"
    )


def test_pairs_train_and_have_metrics(tmp_path):
    name = files.register(write(tmp_path, "data.tsv", many_pairs(50)))
    assert seqio.get_mixture_or_task(name).metric_fns == [
        scores.exact_match,
        scores.character_f_score,
    ]
    (example,) = tfds.as_numpy(mesh_transformer.mesh_train_dataset_fn(name, LENGTHS).take(1))
    assert example["inputs_segmentation"].max() > 1
    rows = list(tasks.rows(name, "train"))
    assert len(rows) == files.report(name).num_training
    assert set(rows[0]) == {"inputs", "targets"}


@pytest.mark.parametrize("count", [2, 3])
def test_a_few_pairs_hold_out_one_input(tmp_path, count):
    name = files.register(write(tmp_path, "data.tsv", many_pairs(count) + "in 0\tagain\n"))
    training, validation = texts(name, "train"), texts(name, "validation")
    assert len(training) + len(validation) == count + 1
    assert len({inputs for inputs, _ in validation}) == 1
    assert not {inputs for inputs, _ in training} & {inputs for inputs, _ in validation}


def test_skipped_lines_are_counted(tmp_path):
    bad = "x\n" * 5
    data = write(tmp_path, "data.tsv", many_pairs(3) + bad)
    other = write(tmp_path, "other.tsv", "\na\tb\n")
    name = files.register(data, validation_data=other, skip_bad_lines=True)
    report = files.report(name)
    assert report.num_skipped == 6
    assert report.summary().split("; ", 2)[2] == (
        "6 bad lines skipped, such as"
        + "".join(
            f"\n  {data}, line {line}: found 1 column (0 tabs); expected input, tab, target"
            for line in (4, 5, 6)
        )
    )
    assert len(texts(name, "train")) == 3
    with pytest.raises(ValueError) as error:
        files.register(data, validation_data=other)
    assert str(error.value) == (
        f"{data}, line 4: found 1 column (0 tabs); expected input, tab, target"
    )


def test_the_name_is_stable_and_registering_again_reads_again(tmp_path):
    path = write(tmp_path, "my data.v2.tsv", many_pairs(3))
    name = files.register(path)
    assert name.startswith("data_my_data_")
    write(tmp_path, "my data.v2.tsv", many_pairs(5))
    assert files.register(path) == name
    assert len(texts(name, "train") + texts(name, "validation")) == 5
    assert files.register(path, skip_bad_lines=True) != name


PARAGRAPHS = [f"Paragraph number {n} says that mixtures have {n} experts." for n in range(200)]


def test_text_becomes_span_corruption(tmp_path):
    name = files.register(write(tmp_path, "text.txt", "\n\n".join(PARAGRAPHS)))
    report = files.report(name)
    assert report.num_training + report.num_validation == 200
    assert "blocks of text for training" in report.summary()
    dataset = mesh_transformer.mesh_train_dataset_fn(name, LENGTHS, pack=False, seed=0)
    whole = "\n".join(PARAGRAPHS)
    for example in tfds.as_numpy(dataset.take(5)):
        inputs, targets = example["inputs"], example["targets"]
        sentinels = [i for i in inputs if i >= 259]
        assert sentinels[0] == 358
        assert [i for i in targets if i >= 259][: len(sentinels)] == sentinels
        # The text between sentinels is in the file unchanged.
        pieces = np.split(inputs, np.flatnonzero(inputs >= 259))
        assert all(BYTES.decode([i for i in p if 3 <= i < 259]) in whole + "\n" for p in pieces)
        assert 1 in inputs
        assert 1 in targets


def test_text_is_evaluated_by_cross_entropy_alone(tmp_path):
    name = files.register(write(tmp_path, "text.txt", "\n\n".join(PARAGRAPHS)))
    (dataset,) = mesh_transformer.mesh_eval_dataset_fn(name, LENGTHS, "validation")
    assert dataset.metric_fns == []
    assert len(list(tasks.rows(name, "validation"))) == files.report(name).num_validation > 3


def test_extension_may_be_anything_if_the_format_is_given(tmp_path):
    name = files.register(write(tmp_path, "data.csv", many_pairs(3)), data_format="pairs")
    assert len(texts(name, "train")) == 2


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two SentencePiece models: one with T5's ids, and one with the trainer's own."""
    folder = tmp_path_factory.mktemp("models")
    corpus = write(folder, "corpus.txt", "\n".join(PARAGRAPHS))
    ids = {"t5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}, "own": {}}
    for name, options in ids.items():
        sentencepiece.SentencePieceTrainer.train(
            input=corpus, model_prefix=str(folder / name), vocab_size=50, minloglevel=2, **options
        )
    return {name: str(folder / f"{name}.model") for name in ids}


def test_sentencepiece_vocabulary(tmp_path, models):
    path = write(tmp_path, "data.tsv", "experts\tmixtures\nParagraph\tnumber\n")
    name = files.register(path, vocabulary=models["t5"])
    (vocabulary, _) = mesh_transformer.get_vocabulary(name)
    assert vocabulary.vocab_size == 50 + 100
    rows = texts(name, "train") + texts(name, "validation")
    assert sorted(rows) == [("Paragraph", "number"), ("experts", "mixtures")]
    assert vocabulary.decode(vocabulary.encode("mixtures have experts")) == "mixtures have experts"


def test_wrong_vocabularies(tmp_path, models):
    data = write(tmp_path, "data.tsv", many_pairs(3))

    def message(vocabulary):
        with pytest.raises(ValueError) as error:
            files.register(data, vocabulary=vocabulary)
        return str(error.value)

    missing = str(tmp_path / "none.model")
    assert message(missing) == f"{missing} does not exist"
    assert message(data) == (
        f"{data} is not a SentencePiece model; give the .model file that its trainer wrote"
    )
    assert message(models["own"]) == (
        f"{models['own']} has pad, end and unknown at ids -1, 2, 0; T5 expects 0, 1, 2: train it "
        "with --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1"
    )


def test_no_vocabulary_is_bytes():
    assert vocabularies.load(None) is BYTES


def failure(*arguments, **options):
    with pytest.raises(ValueError) as error:
        files.register(*arguments, **options)
    return str(error.value)


def test_files_that_cannot_be_used(tmp_path):
    missing = str(tmp_path / "none.tsv")
    assert failure(missing) == f"{missing} does not exist"
    folder = tmp_path / "folder.tsv"
    folder.mkdir()
    assert failure(str(folder)) == (f"{folder} is a folder; give the file in it")
    empty = write(tmp_path, "empty.tsv", "")
    assert failure(empty) == f"{empty} is empty"
    blank = write(tmp_path, "blank.txt", "\n \n")
    assert failure(blank) == f"{blank} holds no examples"
    bad = write(tmp_path, "bad.tsv", "a\nb\n")
    assert failure(bad, skip_bad_lines=True) == (
        f"{bad} holds no examples (2 bad lines skipped, the first: {bad}, line 1: found 1 column "
        "(0 tabs); expected input, tab, target)"
    )
    one = write(tmp_path, "one.tsv", "a\tb\na\tc\n")
    assert failure(one) == (
        f"{one} has only one input, so none can be held out for validation; add more lines, or "
        "give validation_data"
    )
    data = write(tmp_path, "data.tsv", many_pairs(3))
    assert failure(data, validation_data=missing) == (f"{missing} does not exist")
    assert failure(data, validation_data=data) == (
        f"validation_data is the data itself ({data}); leave it out to hold out a part of the data"
    )
    assert failure(data, data_format="csv") == (
        "data_format 'csv' is not known; use 'pairs' or 'text'"
    )


def test_a_file_without_permission(tmp_path, monkeypatch):
    """Replaces `open`, since root may read everything."""
    path = write(tmp_path, "data.tsv", many_pairs(3))

    def refuse(file, *arguments, **options):
        if file == path:
            raise PermissionError(13, "Permission denied", file)
        return real_open(file, *arguments, **options)

    real_open = builtins.open
    monkeypatch.setattr(builtins, "open", refuse)
    assert failure(path) == f"{path} cannot be read: Permission denied"


def test_files_are_not_held_in_memory(tmp_path):
    """10 MB of pairs are checked and read within a few MB."""
    import tracemalloc

    path = tmp_path / "large.tsv"
    with open(path, "w", encoding="utf-8") as file:
        for number in range(10_000):
            file.write(f"{number} {'x' * 500}\t{'y' * 500}\n")
    tracemalloc.start()
    name = files.register(str(path))
    assert sum(1 for _ in tasks.rows(name, "train")) == files.report(name).num_training
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_report_of_a_task_that_is_no_file():
    with pytest.raises(ValueError) as error:
        files.report("cldr_formats")
    assert str(error.value) == "'cldr_formats' is not a task that files.register returned"
