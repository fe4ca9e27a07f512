from __future__ import annotations

import itertools

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds
from t5.models import mesh_transformer

from hmoe.compat.stack import tf
from hmoe.t5.data import cldr, scores, tasks
from hmoe.t5.data.vocabularies import BYTES

LENGTHS = cldr.SEQUENCE_LENGTH


@pytest.fixture(autouse=True)
def graph():
    with tf.Graph().as_default():
        yield


# Registered once in a process, whatever the order of tests.
@pytest.fixture(scope="session")
def small_names():
    """A task of names in two languages, since reading all languages takes seconds."""
    name = "test_small_names"
    tasks.register_names(name, cldr.NameSettings(languages=("de", "ja")))
    return name


@pytest.fixture(scope="session")
def small_mixture(small_names):
    name = "test_small_mixture"
    seqio.MixtureRegistry.add(name, ["cldr_formats", small_names], default_rate=1.0)
    return name


def test_labels_and_metrics_reach_the_evaluation(small_mixture, small_names):
    datasets = mesh_transformer.mesh_eval_dataset_fn(
        small_mixture, LENGTHS, "test", num_eval_examples=20
    )
    assert [dataset.name for dataset in datasets] == ["cldr_formats", small_names]
    generators = [
        cldr.format_examples("test"),
        cldr.name_examples("test", cldr.NameSettings(languages=("de", "ja"))),
    ]
    for dataset, generator in zip(datasets, generators):
        assert dataset.metric_fns == [scores.exact_match, scores.character_f_score]
        shown = list(tfds.as_numpy(dataset.dataset_fn()))
        wanted = list(itertools.islice(generator, 20))
        for field in ("inputs", "targets", "language", "kind"):
            assert [scores.field_of(example, field) for example in shown] == [
                getattr(example, field) for example in wanted
            ]
        for example, want in zip(shown, wanted):
            assert example["targets"].shape == (LENGTHS["targets"],)
            assert BYTES.decode(example["inputs"].tolist()) == want.inputs
            assert dataset.postprocess_fn(want.targets, example=example, is_target=True) == (
                want.targets
            )


def test_training_has_ids_only_and_every_example_is_whole(small_mixture):
    dataset = mesh_transformer.mesh_train_dataset_fn(small_mixture, LENGTHS, pack=False, seed=1)
    names = cldr.NameSettings(languages=("de", "ja"))
    known = {e.inputs: e.targets for e in cldr.name_examples("train", names)}
    formats = itertools.islice(cldr.format_examples("train"), 5_000)
    known.update((e.inputs, e.targets) for e in formats)
    shown = list(tfds.as_numpy(dataset.take(200)))
    for example in shown:
        assert set(example) == {"inputs", "targets"}
        assert example["inputs"].max() < 259
        inputs = BYTES.decode(example["inputs"].tolist())
        assert known[inputs] == BYTES.decode(example["targets"].tolist())
        assert 1 in example["inputs"]
        assert 1 in example["targets"]


def test_packed_training_holds_several_examples():
    lengths = {"inputs": 96, "targets": 64}
    dataset = mesh_transformer.mesh_train_dataset_fn("cldr_formats", lengths)
    packed = list(tfds.as_numpy(dataset.take(30)))
    assert set(packed[0]) == {
        f"{side}{suffix}"
        for side in ("inputs", "targets")
        for suffix in ("", "_position", "_segmentation")
    }
    assert np.mean([example["targets_segmentation"].max() for example in packed]) > 2


def test_mixture_reads_both_tasks_alike():
    mixture = seqio.get_mixture_or_task("cldr")
    both = [task.name for task in seqio.get_subtasks(mixture)]
    assert both == ["cldr_formats", "cldr_names"]
    rates = [mixture.get_rate(task) for task in seqio.get_subtasks(mixture)]
    assert rates == [1.0, 1.0]


def test_splits_of_the_tasks():
    for name in ("cldr_formats", "cldr_names"):
        assert tuple(seqio.get_mixture_or_task(name).splits) == cldr.SPLITS


def test_gin_selects_the_examples(gin_config):
    gin_config.bind_parameter("hmoe.FormatSettings.languages", ["th"])
    gin_config.bind_parameter("hmoe.FormatSettings.kinds", ["time"])
    gin_config.bind_parameter("hmoe.NameSettings.languages", ["ja"])
    gin_config.bind_parameter("hmoe.NameSettings.kinds", ["city"])
    (formats,) = mesh_transformer.mesh_eval_dataset_fn("cldr_formats", LENGTHS, "test")
    (names,) = mesh_transformer.mesh_eval_dataset_fn("cldr_names", LENGTHS, "test")
    for dataset, prefix in ((formats, b"th "), (names, b"ja city: ")):
        shown = list(tfds.as_numpy(dataset.dataset_fn().take(20)))
        assert shown
        assert all(example["inputs_pretokenized"].startswith(prefix) for example in shown)
    assert {row["kind"] for row in itertools.islice(tasks.rows("cldr_formats", "test"), 9)} == {
        "time"
    }


def test_wrong_setting_in_gin_is_an_error_before_the_dataset_is_made(gin_config):
    gin_config.bind_parameter("hmoe.FormatSettings.languages", ["xx"])
    with pytest.raises(ValueError) as error:
        mesh_transformer.mesh_train_dataset_fn("cldr_formats", LENGTHS)
    assert str(error.value).startswith(
        "FormatSettings.languages: CLDR has no language 'xx'; use locale names such as ar, cs, da, "
        "de or sr_Latn"
    )


def test_rows_are_the_examples_without_tensorflow(small_mixture):
    rows = list(itertools.islice(tasks.rows(small_mixture, "validation"), 6))
    formats = itertools.islice(cldr.format_examples("validation"), 3)
    names = cldr.name_examples("validation", cldr.NameSettings(languages=("de", "ja")))
    wanted = [example._asdict() for pair in zip(formats, names) for example in pair]
    assert rows == wanted


def test_rows_of_a_mixture_go_on_when_one_task_ends(small_names):
    few = cldr.FormatSettings(num_draws=200)
    tasks.register_formats("test_few_formats", few)
    seqio.MixtureRegistry.add("test_uneven", ["test_few_formats", small_names], default_rate=1.0)
    kinds = [row["kind"] for row in tasks.rows("test_uneven", "test")]
    assert 0 < sum(kind in cldr.FORMAT_KINDS for kind in kinds) < 20
    assert sum(kind in cldr.NAME_KINDS for kind in kinds) > 40


def test_rows_of_a_foreign_task():
    seqio.TaskRegistry.add(
        "test_foreign",
        source=seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"]),
        output_features={},
    )
    with pytest.raises(ValueError) as error:
        next(tasks.rows("test_foreign", "train"))
    assert str(error.value).startswith(
        "hmoe did not register 'test_foreign' and cannot read its examples; its own tasks are cldr_formats, cldr_names"
    )


def test_white_space_of_a_prediction_counts():
    assert tasks.keep_text(" a ", example={}, is_target=False) == " a "


def test_bytes_and_sentinels():
    text = "Mittwoch, 15. Juli 2037 – 1\u202f234 € 水曜日 الأربعاء"
    ids = BYTES.encode(text)
    assert BYTES.decode(ids) == text
    assert len(ids) == len(text.encode("utf-8"))
    assert BYTES.vocab_size == 3 + 256 + 100
    # Sentinels are above all bytes, so that decoding leaves the text beside them whole.
    sentinels = list(range(BYTES.vocab_size - 100, BYTES.vocab_size))
    assert min(sentinels) > max(BYTES.encode("\U0010ffff"))
    assert BYTES.decode(ids + sentinels) == text
    assert BYTES.decode([sentinels[-1], *ids]) == text
    # Without extra ids, the first sentinel of span corruption would be a byte.
    assert seqio.ByteVocabulary().vocab_size - 1 == 3 + 0xFF
