"""What a resume changes of a run's configuration."""

from __future__ import annotations

import pytest

from hmoe.startup import bindings
from hmoe.t5.commands import run_changes

OLD = """
batch_size = 8
d_ff = 64
learning_rate = 0.01
MIXTURE_NAME = 'cldr_formats'
train_steps = 4
unused = 1
DenseReluDense.hidden_size = %d_ff
FeedForwardExperts.hidden_size = %d_ff
inner/Level.num_experts = 4
mesh_eval_dataset_fn.mixture_or_task_name = %MIXTURE_NAME
mesh_train_dataset_fn.mixture_or_task_name = %MIXTURE_NAME
mesh_train_dataset_fn.seed = 0
run.batch_size = %batch_size
run.layout_rules = 'batch:rows'
run.learning_rate_schedule = [%learning_rate, @learning_rate_schedules.linear_warmup]
run.optimizer = @optimize.AdafactorOptimizer
run.sequence_length = {'inputs': 96, 'targets': 64}
run.skip_seen_data = True
run.train_steps = %train_steps
"""


def changes(old: str, new: str, old_is_whole: bool = True) -> list[run_changes.Change]:
    return run_changes.changes(
        bindings.parse(OLD.replace(*old.split(" => ")) if old else OLD),
        bindings.parse(OLD.replace(*new.split(" => ")) if " => " in new else OLD + new),
        old_is_whole=old_is_whole,
    )


@pytest.mark.parametrize(
    ("new", "line", "kind", "is_another_run"),
    [
        ("batch_size = 8 => batch_size = 16", "batch_size: 8 -> 16", "batch size", True),
        ("d_ff = 64 => d_ff = 32", "d_ff: 64 -> 32", "model", True),
        ("'cldr_formats' => 'x'", "MIXTURE_NAME: 'cldr_formats' -> 'x'", "data", True),
        ("= 0.01 => = 1", "learning_rate: 0.01 -> 1", "learning rate", True),
        ("train_steps = 4 => train_steps = 9", "train_steps: 4 -> 9", "steps", False),
        (
            "@optimize.Adafactor => @optimize.Momentum",
            "utils.run.optimizer: @AdafactorOptimizer -> @MomentumOptimizer",
            "optimizer",
            True,
        ),
        ("num_experts = 4 => num_experts = 8", "inner/Level.num_experts: 4 -> 8", "model", True),
        ("seed = 0 => seed = 7", "mesh_train_dataset_fn.seed: 0 -> 7", "data", True),
        (
            "hmoe.TrainingData.num_shards = 8",
            "TrainingData.num_shards: not set -> 8",
            "data",
            True,
        ),
        ("hmoe.Session.seed = 7", "Session.seed: not set -> 7", "seed", True),
        (
            "hmoe.Session.activation_dtype = 'bfloat16'",
            "Session.activation_dtype: not set -> 'bfloat16'",
            "precision",
            True,
        ),
        (
            "'batch:rows' => ''",
            "utils.run.layout_rules: 'batch:rows' -> ''",
            "mesh and layout",
            False,
        ),
        (
            "utils.run.mesh_shape = 'rows:2'",
            "utils.run.mesh_shape: not set -> 'rows:2'",
            "mesh and layout",
            False,
        ),
        (
            "'targets': 64 => 'targets': 32",
            "utils.run.sequence_length: {'inputs': 96, 'targets': 64} -> {'inputs': 96, "
            "'targets': 32}",
            "data",
            True,
        ),
        (
            "hmoe.Session.log_every_steps = 7",
            "Session.log_every_steps: not set -> 7",
            "saving and reports",
            False,
        ),
        (
            "mesh_eval_dataset_fn.num_eval_examples = 8",
            "mesh_eval_dataset_fn.num_eval_examples: not set -> 8",
            "evaluation and answers",
            False,
        ),
        (
            "Bitransformer.decode.beam_size = 4",
            "Bitransformer.decode.beam_size: not set -> 4",
            "evaluation and answers",
            False,
        ),
        (
            "skip_seen_data = True => skip_seen_data = False",
            "utils.run.skip_seen_data: True -> False",
            "data",
            True,
        ),
        (
            "linear_warmup.steps_or_fraction = 3",
            "linear_warmup.steps_or_fraction: not set -> 3",
            "learning rate",
            True,
        ),
    ],
)
def test_a_change_and_its_kind(new: str, line: str, kind: str, is_another_run: bool) -> None:
    (change,) = changes("", new)
    assert str(change) == f"{line} ({kind}: {change.kind.effect})"
    assert (change.kind.name, change.kind.is_another_run) == (kind, is_another_run)
    assert run_changes.serious([change]) == ([change] if is_another_run else [])


@pytest.mark.parametrize(
    "new",
    ["", "unused = 1 => unused = 2", "= %batch_size => = 8", "@optimize.Ada => @mtf.optimize.Ada"],
)
def test_the_same_in_other_words(new: str) -> None:
    assert changes("", new) == []


def test_seen_data_that_is_skipped_from_now_on() -> None:
    (change,) = changes("skip_seen_data = True => skip_seen_data = False", "")
    assert not change.kind.is_another_run
    assert change.kind.effect == "seen data is skipped from here on"


@pytest.mark.parametrize("old", ["mesh_train_dataset_fn.seed = None", ""])
def test_a_seed_where_there_was_none(old: str) -> None:
    (change,) = changes(f"mesh_train_dataset_fn.seed = 0 => {old}", "")
    assert str(change) == (
        f"mesh_train_dataset_fn.seed: {'None' if old else 'not set'} -> 0 (data: the data comes in "
        "another order from here on)"
    )
    assert run_changes.serious([change]) == []


def test_what_an_operative_configuration_lacks_is_not_compared() -> None:
    (change,) = changes("", "run.batch_size = 9\nhmoe.Session.seed = 7\n", old_is_whole=False)
    assert str(change).startswith("utils.run.batch_size: 8 -> 9 (")


def test_the_most_serious_comes_first() -> None:
    new = OLD.replace("train_steps = 4", "train_steps = 9").replace("d_ff = 64", "d_ff = 32")
    found = run_changes.changes(bindings.parse(OLD), bindings.parse(new))
    assert run_changes.listed(found) == (
        "  d_ff: 64 -> 32 (model: the model will differ; weights of other shapes are refused "
        "whatever is forced)\n"
        "  train_steps: 4 -> 9 (steps: a schedule that decays follows the new number from here on)"
    )


def test_long_values_are_cut() -> None:
    (change,) = changes("", f"run.x = '{'y' * 100}'")
    assert str(change).startswith(f"utils.run.x: not set -> '{'y' * 65} ... (model")


def test_flags_that_name_other_data() -> None:
    old: dict[str, object] = {"data": "/a.tsv", "vocabulary": None}
    found = run_changes.of_flags(old, {"data": "/b.tsv", "vocabulary": "v"})
    assert [str(change).split(" (")[0] for change in found] == [
        "--data: '/a.tsv' -> '/b.tsv'",
        "--vocabulary: not set -> 'v'",
    ]
    assert run_changes.of_flags(old, {"data": "/a.tsv", "vocabulary": ""}) == []


def test_another_trace_to_replay() -> None:
    found = run_changes.of_flags({"replay": "/a.parquet"}, {"replay": None})
    assert run_changes.listed(run_changes.serious(found)) == (
        "  --replay: '/a.parquet' -> not set (routing: tokens will go to other experts)"
    )
