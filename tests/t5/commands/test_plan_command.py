"""`hmoe plan`, up to what is counted: what it resolves, says, needs and leaves alone."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
import pytest
import seqio

import hmoe.t5  # noqa: F401  (registers what gin names)
from hmoe import compat
from hmoe.cli import launch
from hmoe.compat.stack import tf
from hmoe.startup import errors
from hmoe.startup.console import Console
from hmoe.startup.request import PlanFlags, Request
from hmoe.t5.commands import configure, plan, plan_output, run_files, t5_run
from hmoe.t5.graphs import named_step, step_formulas, step_proof
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.step_proof import Comparison
from tests.t5 import server

compat.behave_like_v1()

TINY = ("runs/tiny.gin",)
MICROBATCHES = "serialize_num_microbatches.tokens_per_microbatch_per_replica = 96"
TPU = ("models/hierarchical_tiny.gin", "layouts/v3-8.gin")
SMALL = ("utils.run.batch_size = 16", "num_blocks = 1", "d_model = 64", "d_ff = 96")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    gin.clear_config()
    yield
    gin.clear_config()


class Said(Console):
    """A console whose lines are read."""

    def __init__(self) -> None:
        self.out, self.lines = io.StringIO(), io.StringIO()
        super().__init__(self.out, self.lines, answers_only=True)

    @property
    def said(self) -> list[str]:
        return self.lines.getvalue().splitlines()


def request_for(
    *lines: str, files: Sequence[str] = TINY, model_dir: str = "none", **flags: Any
) -> Request:
    return Request(
        command="plan",
        model_dir=model_dir,
        gin_file=tuple(files),
        gin_param=lines,
        plan=PlanFlags(**flags),
    )


def resolved(*lines: str, console: Said | None = None, **flags: Any) -> plan.PlannedStep:
    gin.clear_config()
    console = console or Said()
    request = configure.configure_plan(request_for(*lines, **flags), console)
    return plan.resolve(request, console)


def settings_of_training(*lines: str, files: Sequence[str] = TINY) -> ModelSettings:
    """The settings that `hmoe train` makes its estimator with."""
    gin.clear_config()
    request = Request(command="train", model_dir="none", gin_file=tuple(files), gin_param=lines)
    configure.configure_new(request, Said())
    caught: list[Any] = []
    t5_run.T5Run(
        mode="train",
        model_dir="none",
        say=print,
        arguments={
            "dataset_split": "train",
            "train_model_fn": lambda estimator, *_, **__: caught.append(estimator),
        },
    ).start()
    return caught[0].settings


def operations(settings: ModelSettings, *, packed: bool = True) -> list[str]:
    step = named_step.named_step(settings, on_tpu=False, packed=packed)
    return [
        f"{type(op).__name__} {op.name}: {[(x.shape, x.dtype.name) for x in op.outputs]}"
        for op in step.graph.operations
    ]


@pytest.mark.parametrize(
    "lines", [(), (MICROBATCHES, "hmoe.Session.activation_dtype = 'bfloat16'")]
)
def test_settings_are_those_that_training_would_have(lines: tuple[str, ...]) -> None:
    found = resolved(*lines)
    mine = operations(found.settings)
    training = settings_of_training(*lines)
    for field in dataclasses.fields(ModelSettings):
        if field.name in ("transformer_model", "learning_rate_schedule", "vocabulary"):
            continue  # objects that are made anew
        one, other = (getattr(each, field.name) for each in (found.settings, training))
        if field.name == "layout_rules":
            one, other = one._pairs, other._pairs
        assert one == other, field.name
    assert mine == operations(training)
    assert (found.on_tpu, found.packed) == (False, True)


def test_no_data_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*unused: object, **unused_too: object) -> None:
        raise AssertionError("data is read")

    for kind in (seqio.Task, seqio.Mixture):
        monkeypatch.setattr(kind, "get_dataset", fail)
    monkeypatch.setattr(tf.data.Dataset, "from_generator", fail)
    found = resolved()
    assert found.settings.vocabulary[1].vocab_size == seqio.ByteVocabulary(100).vocab_size


def test_nothing_of_the_run_needs_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *unused: [])
    devices = [f"gpu:{number}" for number in range(4)]
    assert resolved(f"utils.run.mesh_devices = {devices}").settings.mesh_devices == devices
    with pytest.raises(ValueError, match="this machine has no GPU"):
        settings_of_training(f"utils.run.mesh_devices = {devices}")


@pytest.mark.parametrize(
    ("files", "platform", "on_tpu", "said"),
    [
        (
            TINY,
            None,
            False,
            "Counting for CPUs and GPUs (utils.run.mesh_devices names devices; --platform chooses "
            "another)",
        ),
        (
            TPU,
            None,
            True,
            "Counting for TPUs (utils.run.mesh_devices names no devices; --platform chooses "
            "another)",
        ),
        (TINY, "tpu", True, "Counting for TPUs (--platform)"),
        (TPU, "gpu", False, "Counting for CPUs and GPUs (--platform)"),
        (TPU, "cpu", False, "Counting for CPUs and GPUs (--platform)"),
    ],
)
def test_platform(files: tuple[str, ...], platform: str | None, on_tpu: bool, said: str) -> None:
    console = Said()
    found = resolved(*SMALL, files=files, platform=platform, console=console)
    assert found.on_tpu == on_tpu
    assert console.said[0] == said
    # On CPUs and GPUs activations are as the session says, and gin's types are those of TPUs.
    dtype = tf.bfloat16 if files == TPU and on_tpu else tf.float32
    assert found.settings.variable_dtype.activation_dtype == dtype
    assert found.settings.use_tpu is None


@gin.configurable(module="test")
def plan_test_dataset(**unused: object) -> None:
    """Stands for a function of a user's own."""


@pytest.mark.parametrize(
    ("lines", "packed"),
    [
        ((), True),
        (("mesh_train_dataset_fn.pack = False",), False),
        (("utils.run.train_dataset_fn = @plan_test_dataset",), False),
    ],
)
def test_packed_data_has_more_features(lines: tuple[str, ...], packed: bool) -> None:
    assert resolved(*lines).packed == packed


def test_without_a_task_the_vocabulary_is_that_of_t5() -> None:
    settings = resolved(*SMALL, files=TPU).settings
    assert settings.vocabulary.vocab_size == 32_100
    # Mesh TensorFlow rounds up to a multiple of 128.
    assert settings.decoder.output_vocab_dim.size == 32_128
    settings = resolved(*SMALL, files=("runs/pretrain_base_v3-256.gin", *TPU)).settings
    assert settings.vocabulary.vocab_size == 32_100


def test_without_a_checkpoint_to_begin_with() -> None:
    assert resolved(*SMALL, files=("runs/finetune_cldr.gin", *TPU)).settings.init_checkpoint is None


def test_warnings_of_the_layout() -> None:
    console = Said()
    resolved(
        "utils.run.layout_rules = 'outer_batch:rows;batch:cols;expert_x:cols'", console=console
    )
    assert console.said[1:] == [
        "Warning: dimension 'expert_y' is not split, although the mesh has 'rows' of 2, 'cols' of "
        "2: every device holds all of it. Add a layout rule such as "
        "'expert_y:rows' if that is not meant"
    ]


ERRORS = {
    "experts": (
        ("num_outer_experts = 3",),
        "level 'outer': expert_x has 3 experts, which the 2 devices of mesh axis 'cols' cannot "
        "share; use a multiple of 2 or another layout",
    ),
    "batch": (
        ("batch_size = 7",),
        "utils.run.batch_size: 7 examples cannot be divided into "
        "tpu_estimator_model_fn.outer_batch_size = 2 equal parts; use a batch size that is a "
        "multiple of 2",
    ),
    "tokens": (
        ("batch_size = 6", "utils.run.sequence_length = {'inputs': 5, 'targets': 7}"),
        "level 'outer': 15 tokens cannot be split over 2 devices; use a batch of which the tokens "
        "are a multiple of 2, or another layout",
    ),
    "optimizer": (
        ("utils.run.optimizer = None",),
        "training needs utils.run.optimizer; in gin, for example: utils.run.optimizer = "
        "@optimize.AdafactorOptimizer",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_of_sizes_that_do_not_suit_each_other(name: str) -> None:
    lines, message = ERRORS[name]
    with pytest.raises(ValueError) as error:
        plan.plan(request_for(*lines), Said())
    assert launch.describe(error.value, None) == f"hmoe: error: {message}"


def planned(request: Request, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[str]]:
    """What would be shown of a request, and what is said."""
    shown: list[Any] = []
    monkeypatch.setattr(plan_output, "show", lambda *arguments: shown.append(arguments))
    console = Said()
    plan.plan(request, console)
    assert console.out.getvalue() == ""
    return shown, console.said


def test_the_default_job(monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_for(files=())
    ((shown, _, found, step, of_step),), said = planned(request, monkeypatch)
    assert shown == request
    assert (found.mesh, found.tokens, found.on_tpu) == ({"rows": 2, "cols": 2}, 16 * 160, False)
    assert [layer.name for layer in step.records] == [
        f"{stack}/block_{block:03d}/layer_{layer:03d}"
        for stack, layer in (("encoder", 1), ("decoder", 2))
        for block in range(2)
    ]
    assert str(of_step.settings.mesh_shape) == "Shape[rows=2, cols=2]"
    assert said == [
        "Planning the default job (runs/default.gin)",
        "Counting for CPUs and GPUs (utils.run.mesh_devices names devices; --platform chooses "
        "another)",
        "Building the named graph of a step ...",
        "Counting ...",
    ]


def saved_run(folder: Path) -> None:
    """Writes what training on the user's own data leaves, after the data has gone."""
    data = folder.parent / "pairs.tsv"
    data.write_text("".join(f"in {n}\tout {n}\n" for n in range(20)), encoding="utf-8")
    request = Request(
        command="train", model_dir=str(folder), data=str(data), gin_param=("num_blocks = 1",)
    )
    configure.configure_new(request, Said())
    run_files.write(str(folder), request)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 2}) + "\n", encoding="utf-8")
    data.unlink()
    gin.clear_config()


def test_a_saved_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "m"
    saved_run(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    request = request_for(files=(), model_dir=str(folder), reads_model_dir=True)
    ((_, _, _, step, _),), said = planned(request, monkeypatch)
    assert said[0] == f"Planning the run in {folder} with its saved configuration"
    assert len(step.records) == 2
    gin.clear_config()
    # Gin files are planned in its place.
    request = dataclasses.replace(request, gin_file=("runs/default.gin",))
    ((_, _, _, step, _),), said = planned(request, monkeypatch)
    assert said[0].startswith("Counting for ")
    assert len(step.records) == 4
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def shown(monkeypatch: pytest.MonkeyPatch, **flags: bool) -> str:
    """What is written to standard output, with a report of one line."""
    monkeypatch.setattr(plan_output, "report", lambda found, *_, **__: f"{found.devices} devices")
    console = Said()
    plan.plan(request_for("dropout_rate = 0.0", **flags), console)
    return console.out.getvalue()


def test_only_the_plan_goes_to_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch) == "4 devices\n"


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(shown(monkeypatch, json=True))
    assert (found["platform"], found["devices"], found["tokens"]) == ("cpu", 4, 8 * 160)
    assert [layer["name"] for layer in found["layers"]] == [
        "encoder/block_000/layer_001",
        "decoder/block_000/layer_002",
    ]
    assert "proof" not in found


def test_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    gin.clear_config()
    found = json.loads(shown(monkeypatch, json=True, prove=True))
    assert len(found["proof"]) > 6
    assert all(each["is_equal"] for each in found["proof"])
    gin.clear_config()
    lines = shown(monkeypatch, prove=True).splitlines()
    assert lines[0] == "4 devices"
    assert lines[2].split() == ["proof,", "of", "one", "device", "planned", "lowered", "equal"]
    first, *others = found["proof"]
    assert lines[4].split() == [
        *first["what"].split(),
        *(f"{first['planned']:,}", f"{first['lowered']:,}", "yes"),
    ]
    # Closed formulas, then the graph that training would run.
    what = [each["what"] for each in found["proof"]]
    number = what.index("multiplications in the whole graph")
    assert number > 6
    assert all(each.startswith("formulas: ") for each in what[:number])
    assert len(lines) == 5 + len(others)


def test_a_proof_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    differs = [
        Comparison("multiplications", 5, 5),
        Comparison("all-to-all over rows: bytes", 1007, 1009),
    ]
    monkeypatch.setattr(step_proof, "compare", lambda *unused, **unused_too: differs)
    monkeypatch.setattr(step_formulas, "compare", lambda *unused: [])
    with pytest.raises(errors.RunFailedError) as error:
        shown(monkeypatch, prove=True)
    assert str(error.value) == (
        "the plan differs from the graph that training would run, in 1 of 2 numbers; the first is "
        "all-to-all over rows: bytes: 1,007 planned, 1,009 in the graph"
    )


@pytest.mark.slow
def test_errors_after_tensorflow_is_loaded_leave_nothing_behind(
    hmoe: server.Server, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    saved_run(folder)
    names = sorted(path.name for path in folder.iterdir())
    for flags in (
        ("--gin_file=runs/tiny.gin", "--gin_param=num_outer_experts = 3"),
        (f"--model_dir={folder}", "--gin_param=num_outer_experts = 3"),
    ):
        ended = hmoe("plan", *flags)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.splitlines()[-1] == f"hmoe: error: {ERRORS['experts'][1]}"
        assert sorted(path.name for path in folder.iterdir()) == names
        (log,) = [line for line in ended.stderr.splitlines() if line.startswith("Loading")]
        assert not Path(log.partition("(log: ")[2].partition(")")[0]).exists()
