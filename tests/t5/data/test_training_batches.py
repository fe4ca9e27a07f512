from __future__ import annotations

import functools

import numpy as np
import pytest
import seqio
from mesh_tensorflow.transformer import utils
from t5.models import mesh_transformer

from hmoe.compat.stack import tf
from hmoe.t5.data import tasks, training_batches, training_data
from hmoe.t5.data.vocabularies import BYTES
from tests.t5.data import sharded
from tests.t5.data.sharded import BATCH, LENGTHS, dataset, take

# Pipelines of many shards are built for each case.
pytestmark = pytest.mark.slow

PAIRS, TEXTS, MIXTURE = "test_shard_pairs", "test_shard_texts", "test_shard_mixture"
OTHER = "test_shard_other_pairs"


@pytest.fixture(autouse=True)
def graph():
    with tf.Graph().as_default():
        tf.set_random_seed(5)
        yield


@pytest.fixture(autouse=True, scope="module")
def registered():
    sharded.add_pairs(PAIRS)
    sharded.add_pairs(OTHER, 71, first=500)
    sharded.add_texts(TEXTS)
    sharded.add_mixture(MIXTURE, [PAIRS, OTHER])


def assert_equal(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        assert set(one) == set(other)
        for name in other:
            np.testing.assert_array_equal(one[name], other[name], name)


def rows_of(batches, rows):
    return [{name: value[rows] for name, value in batch.items()} for batch in batches]


class Recorder:
    """An estimator that keeps what it would train on, resumed at a step if that is not 0."""

    def __init__(self, step=0, rows=None):
        self.step = step
        if rows is not None:
            self.local_rows = lambda batch_size: rows

    def latest_checkpoint(self):
        return f"model.ckpt-{self.step}" if self.step else None

    def get_variable_value(self, name):
        assert name == "global_step"
        return np.int64(self.step)

    def train(self, input_fn, max_steps, hooks):
        self.dataset, self.max_steps, self.hooks = input_fn({}), max_steps, hooks


# Rows of one of 2, 4 and 8 slices, of one of 2 x 2 with an outer batch, and rows far apart.
SLICES = {
    "second of 2": range(12, 24),
    "third of 4": range(12, 18),
    "seventh of 8": range(18, 21),
    "second of 2 x 2": [*range(6, 12), *range(18, 24)],
    "far apart": [1, 5, 9, 13, 17, 21],
}


@pytest.fixture(scope="module", params=["pairs", "unpacked pairs", "mixture", "text"])
def one_process(request, registered):
    """What one process reads: the task, whether it is packed, and batches."""
    name = {"mixture": MIXTURE, "text": TEXTS}.get(request.param, PAIRS)
    pack = request.param != "unpacked pairs"
    with tf.Graph().as_default():
        tf.set_random_seed(5)
        return name, pack, take(dataset(name, 8, pack=pack), 4)


@pytest.mark.parametrize("rows", SLICES.values(), ids=SLICES)
def test_processes_read_the_rows_that_one_process_would(one_process, rows):
    name, pack, whole = one_process
    assert whole[0]["targets"].shape == (BATCH, LENGTHS["targets"])
    part = take(dataset(name, 8, rows=list(rows), pack=pack), 4)
    assert_equal(part, rows_of(whole, list(rows)))


@pytest.mark.parametrize(("name", "num_shards"), [(PAIRS, 1), (MIXTURE, 4), (TEXTS, 3)])
def test_skipping_goes_on_where_training_stopped(name, num_shards):
    whole = take(dataset(name, num_shards), 11)
    assert_equal(take(dataset(name, num_shards, skipped=7), 4), whole[7:])
    rows = [3, 4, 21]
    part = take(dataset(name, num_shards, rows=rows, skipped=7), 4)
    assert_equal(part, rows_of(whole[7:], rows))


@pytest.mark.parametrize(
    ("pack", "step", "ensemble", "rows"),
    [(True, 0, None, None), (False, 5, 2, None), (True, 5, None, [2, 7])],
    ids=["new", "resumed ensemble", "resumed, some rows"],
)
def test_one_shard_has_the_order_of_mesh_tensorflow(pack, step, ensemble, rows):
    arguments = {
        "vocabulary": BYTES,
        "sequence_length": LENGTHS,
        "batch_size": 10,
        "train_dataset_fn": functools.partial(
            mesh_transformer.mesh_train_dataset_fn, MIXTURE, seed=4, pack=pack
        ),
        "train_steps": 9,
        "ensemble_inputs": ensemble,
        "skip_seen_data": True,
        "seen_data_init_step": 2,
    }
    upstream, ours = Recorder(step), Recorder(step, rows)
    utils.train_model(upstream, **arguments)
    training_batches.train_model(ours, **arguments)
    wanted = take(upstream.dataset, 6)
    assert wanted[0]["inputs"].shape[0] == 10 * (ensemble or 1)
    assert_equal(take(ours.dataset, 6), wanted if rows is None else rows_of(wanted, rows))
    assert (ours.max_steps, list(ours.hooks)) == (9, [])


def test_a_shard_is_what_t5_reads_of_its_examples_alone():
    """The third of four shards, of which a task of its own has the examples."""
    alone = "test_shard_alone"
    if alone not in seqio.TaskRegistry.names():
        tasks.add_task(
            alone,
            lambda split, shard: lambda: [sharded.pair(n) for n in range(2, sharded.NUM_PAIRS, 4)],
            ("inputs", "targets"),
            ("train",),
            tasks.features(BYTES, ("inputs", "targets")),
            [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            [],
            shuffle_buffer=10,  # a quarter of the whole's
        )
    seed = 3 + 2 * 1_000_003
    wanted = mesh_transformer.mesh_train_dataset_fn(alone, LENGTHS, seed=seed).batch(6)
    found = take(dataset(PAIRS, 4), 7)
    assert_equal(rows_of(found, slice(12, 18)), take(wanted, 7))


def test_shards_of_a_mixture_draw_its_tasks_in_different_orders():
    (batch,) = take(dataset(MIXTURE, 24, pack=False), 1)
    texts = [sharded.text_of(row) for row in batch["inputs"]]
    # Shards of one seed would all begin with the same task.
    assert {int(text[3:6]) >= 500 for text in texts} == {True, False}


def test_one_epoch_has_each_example_once():
    # Shards of 203 pairs have 25 or 26; in four batches of 7 each, all 25 come, and not twice.
    batches = take(dataset(PAIRS, 8, batch_size=56, pack=False, shuffle=False), 4)
    texts = []
    for index in range(8):
        size = 26 if index < 3 else 25
        rows = np.concatenate([batch["inputs"][7 * index : 7 * index + 7] for batch in batches])
        texts += [sharded.text_of(row) for row in rows[:size]]
    assert sorted(texts) == sorted(sharded.pair(n)[0] for n in range(sharded.NUM_PAIRS))


def test_a_process_neither_reads_nor_tokenises_what_others_need():
    name, seen = "test_shard_counted", []
    sharded.add_pairs(name, seen=seen.append)
    take(dataset(name, 4, rows=[6, 7, 8, 9, 10, 11]), 9)
    assert {text.decode() for text in seen} == {
        sharded.pair(n)[0] for n in range(1, sharded.NUM_PAIRS, 4)
    }
    del seen[:]
    take(dataset(name, 4), 1)
    assert {int(text[3:6]) % 4 for text in seen} == {0, 1, 2, 3}


def test_fewer_examples_than_shards_are_shared_by_several():
    name = "test_shard_few"
    sharded.add_pairs(name, 5)
    found = take(dataset(name, 8, pack=False), 2)
    texts = {sharded.text_of(row) for batch in found for row in batch["inputs"]}
    assert texts == {sharded.pair(n)[0] for n in range(5)}


def test_a_foreign_source_of_fewer_examples_than_shards_is_an_error():
    name = "test_shard_foreign"
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            seqio.FunctionDataSource(
                lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
                    {"inputs": ["a", "b", "c"], "targets": ["d", "e", "f"]}
                ),
                splits=["train"],
            ),
            tasks.features(BYTES, ("inputs", "targets")),
            [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        )
    assert len(take(dataset(name, 2), 1)) == 1
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        take(dataset(name, 4, rows=[23]), 1)
    assert (
        "shard 3 of 4 of the training data has no example; there are too few for so many: set "
        "hmoe.TrainingData.num_shards to a lower number"
    ) in error.value.message


def test_without_a_seed_processes_agree_on_the_order_of_one_start():
    arguments = {"num_shards": 4, "seed": None}
    whole = take(dataset(TEXTS, rows=range(BATCH), first_step=0, **arguments), 3)
    part = take(dataset(TEXTS, rows=[5, 17], first_step=0, **arguments), 3)
    assert_equal(part, rows_of(whole, [5, 17]))
    later = take(dataset(TEXTS, rows=[5, 17], first_step=40, **arguments), 3)
    assert (later[0]["inputs"] != whole[0]["inputs"][[5, 17]]).any()


def test_functions_of_a_user_are_read_whole_or_take_a_shard():
    def numbers(sequence_length, vocabulary, dataset_split):
        del sequence_length, vocabulary, dataset_split
        return tf.data.Dataset.range(7).map(lambda number: {"inputs": number[None]})

    def shards(sequence_length, vocabulary, dataset_split, shard_info):
        ds = numbers(sequence_length, vocabulary, dataset_split)
        return ds.shard(shard_info.num_shards, shard_info.index)

    settings = training_data.TrainingData(num_shards=4)
    found = {}
    for function in (numbers, shards):
        count = settings.shards_of(function, 6)
        open_shard = training_data.opener(
            function, sequence_length=LENGTHS, vocabulary=BYTES, dataset_split="train"
        )
        for rows in (None, [1, 4]):
            batches = take(training_batches.batches(open_shard, count, 6, rows), 2)
            found[function, rows is None] = count, [b["inputs"][:, 0].tolist() for b in batches]
    assert found == {
        (numbers, True): (1, [[0, 1, 2, 3, 4, 5], [6, 0, 1, 2, 3, 4]]),
        (numbers, False): (1, [[1, 4], [0, 3]]),
        (shards, True): (2, [[0, 2, 4, 1, 3, 5], [6, 0, 2, 1, 3, 5]]),
        (shards, False): (2, [[2, 3], [0, 3]]),
    }


@pytest.mark.parametrize(
    ("num_shards", "rows", "lines"),
    [
        (
            2,
            range(6, 12),
            [
                "Warning: each process reads 12 sequences a batch and needs 6 of them, since the "
                "data is in 2 shards; set hmoe.TrainingData.num_shards to 4 or a multiple"
            ],
        ),
        (4, range(6, 12), []),
        (8, range(6, 12), []),
        (1, None, []),
    ],
)
def test_a_process_that_reads_more_than_it_needs_says_so(gin_config, num_shards, rows, lines):
    gin_config.bind_parameter("hmoe.TrainingData.num_shards", num_shards)
    said = []
    estimator = Recorder(rows=rows)
    fn = functools.partial(mesh_transformer.mesh_train_dataset_fn, PAIRS, seed=3)
    arguments = (BYTES, LENGTHS, BATCH, fn, 9, None)
    training_batches.train_model(estimator, *arguments, say=said.append)
    assert said == lines
    whole = rows_of(take(dataset(PAIRS, num_shards), 2), slice(None) if rows is None else rows)
    assert_equal(take(estimator.dataset, 2), whole)


def test_the_function_that_gin_hands_over_is_known(gin_config):
    gin_config.parse_config(
        "utils.run.train_dataset_fn = @t5.models.mesh_transformer.mesh_train_dataset_fn\n"
        f"mesh_train_dataset_fn.mixture_or_task_name = '{PAIRS}'\n"
        "mesh_train_dataset_fn.seed = 3"
    )
    fn = gin_config.query_parameter("utils.run.train_dataset_fn").scoped_configurable_fn
    assert training_data.can_shard(fn)
    assert training_data.TrainingData(num_shards=20).shards_of(fn, BATCH) == 4
    open_shard = training_data.opener(fn, sequence_length=LENGTHS)
    found = take(training_batches.batches(open_shard, 4, BATCH), 3)
    assert_equal(found, take(dataset(PAIRS, 4), 3))


def test_rows_of_batches_are_picked():
    batches = tf.data.Dataset.range(12).batch(4).map(lambda row: {"a": row, "b": (row * 2,)})
    found = take(training_batches.pick_rows(batches, [3, 1]), 3)
    assert [batch["a"].tolist() for batch in found] == [[3, 1], [7, 5], [11, 9]]
    assert [batch["b"][0].tolist() for batch in found] == [[6, 2], [14, 10], [22, 18]]


def test_number_of_shards_is_checked():
    with pytest.raises(ValueError) as error:
        training_data.TrainingData(num_shards=0)
    assert str(error.value).splitlines()[0] == (
        "hmoe.TrainingData: num_shards is 0; it must be an integer of at least 1"
    )
