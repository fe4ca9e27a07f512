"""`--replay` by the command: the same numbers from the same trace, and training on a trace."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from hmoe.analysis import traces
from hmoe.startup.request import Machine, Request
from hmoe.t5.commands import replay
from tests.t5 import server

ENCODER, DECODER = "encoder/block_000/layer_001", "decoder/block_000/layer_002"
TRAINED = (
    "batch_size = 16",
    "train_steps = 3",
    "save_every_steps = 2",
    "mesh_eval_dataset_fn.num_eval_examples = 21",
    "hmoe.HierarchicalMoE.metrics = 'full'",
    "outer/TopKRouter.policy_eval = 'random'",
    "outer/TopKRouter.threshold_eval = 0.5",
)
OWN = (
    "batch_size = 16",
    "mesh_train_dataset_fn.seed = 3",
    "mesh_eval_dataset_fn.num_eval_examples = 50",
    "hmoe.Session.log_every_steps = 1",
    "save_every_steps = 1",
    "mesh_train_dataset_fn.pack = False",
    "hmoe.HierarchicalMoE.metrics = 'full'",
)
GATE = f"{ENCODER}/MoELayer/outer_gating/kernel"


def run(hmoe: server.Server, *arguments: str) -> str:
    result = hmoe(*arguments)
    assert result.returncode == 0, f"{arguments}\n{result.stdout}{result.stderr}"
    return result.stdout


def refused(hmoe: server.Server, *arguments: str) -> str:
    """Returns the last line of a command that ends with exit status 2."""
    result = hmoe(*arguments)
    assert result.returncode == 2, f"{arguments}\n{result.stdout}{result.stderr}"
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def bound(*bindings: str) -> list[str]:
    return [f"--gin_param={each}" for each in bindings]


def metrics(folder: Path) -> dict[str, float]:
    """Returns the metrics that were written last."""
    last = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return {name: value for name, value in json.loads(last).items() if name != "time"}


def shifted(path: Path, target: Path) -> None:
    """Writes a trace whose tokens go one expert further at each level."""
    trace = traces.read(str(path))
    expert = trace.numbers["expert"]
    further = np.where(expert >= 0, (expert + 1) % 4, -1)
    traces.write(
        str(target), dataclasses.replace(trace, numbers={**trace.numbers, "expert": further})
    )


@pytest.fixture(scope="module")
def model(hmoe: server.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, traced at its last two checkpoints, and evaluated."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    run(hmoe, "train", "--gin_file=runs/tiny.gin", f"--model_dir={folder}", *bound(*TRAINED))
    run(hmoe, "trace", f"--model_dir={folder}")
    run(hmoe, "trace", f"--model_dir={folder}", *bound("utils.run.eval_checkpoint_step = 2"))
    run(hmoe, "eval", f"--model_dir={folder}")
    return folder


def replayed(hmoe: server.Server, model: Path, trace: Path) -> tuple[dict[str, float], str]:
    said = run(hmoe, "eval", f"--model_dir={model}", f"--replay={trace}")
    return metrics(model / "validation_eval_replay"), said


@pytest.mark.slow
def test_a_trace_of_the_checkpoint_gives_the_same_numbers(hmoe: server.Server, model: Path) -> None:
    expected = metrics(model / "validation_eval")
    trace = model / "trace-3.parquet"
    found, said = replayed(hmoe, model, trace)
    missing = [name for name in expected if name not in found]
    assert all(name.endswith(("/exact_match", "/chrf", "/count")) for name in missing), missing
    assert found == {name: expected[name] for name in found}
    assert f"eval/{ENCODER}/inner/load_3" in found
    assert found["eval/loss"] > 0
    unused = ~traces.read(str(trace)).numbers["used"]
    assert unused.any(), "the policy left some choices out"
    assert (
        f"Replaying the choices of {trace}, by teacher forcing alone: a trace has none for decoding"
        in said.splitlines()
    )


@pytest.mark.slow
def test_a_trace_of_another_checkpoint_gives_others(hmoe: server.Server, model: Path) -> None:
    found, _ = replayed(hmoe, model, model / "trace-2.parquet")
    assert found["eval/loss"] != metrics(model / "validation_eval")["eval/loss"]


@pytest.mark.slow
def test_tokens_go_where_the_trace_says(hmoe: server.Server, model: Path, tmp_path: Path) -> None:
    """Each expert is chosen as often as the one before it was."""
    other = tmp_path / "shifted.parquet"
    shifted(model / "trace-3.parquet", other)
    found, _ = replayed(hmoe, model, other)
    expected = metrics(model / "validation_eval")
    for layer in (ENCODER, DECODER):
        for level in ("outer", "inner"):
            loads = [
                [numbers[f"eval/{layer}/{level}/load_{n}"] for n in range(4)]
                for numbers in (found, expected)
            ]
            assert loads[0] == loads[1][-1:] + loads[1][:-1]
            assert loads[0] != loads[1]
    assert found["eval/loss"] != expected["eval/loss"]


@pytest.fixture(scope="module")
def own(hmoe: server.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a model of a step, and a trace of what it is trained on."""
    folder = tmp_path_factory.mktemp("own")
    words = [
        "amber",
        "birch",
        "cedar",
        "daisy",
        "elder",
        "fern",
        "grass",
        "hazel",
        "iris",
        "jasmine",
        "kelp",
        "lily",
    ]
    pairs = [f"{a} {b}\t{b} {a}" for a in words for b in words[:3] if a != b]
    (folder / "pairs.tsv").write_text("\n".join(pairs) + "\n", encoding="utf-8")
    run(hmoe, *training(folder, "model"), "--train_steps=1")
    traced = f"--output={folder / 'trace.parquet'}"
    run(hmoe, "trace", f"--model_dir={folder / 'model'}", "--split=train", traced)
    return folder


def training(folder: Path, name: str) -> list[str]:
    return [
        "train",
        f"--data={folder / 'pairs.tsv'}",
        "--gin_file=runs/tiny.gin",
        f"--model_dir={folder / name}",
        "--noevaluate",
        *bound(*OWN),
    ]


def trained_loads(folder: Path, layer: str, level: str) -> list[list[float]]:
    """Returns the loads of the experts at each step."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    return [[step[f"{layer}/{level}/load_{n}"] for n in range(4)] for step in steps]


@pytest.mark.slow
def test_trains_on_a_trace(hmoe: server.Server, own: Path) -> None:
    """Each expert is chosen as often as the one before it, also where a batch is cut in two."""
    trace, other = own / "trace.parquet", own / "shifted.parquet"
    shifted(trace, other)
    cut = bound("serialize_num_microbatches.tokens_per_microbatch_per_replica = 256")
    for name, path, more in (("as traced", trace, []), ("a", other, []), ("b", other, cut)):
        run(hmoe, *training(own, name), *more, "--train_steps=2", f"--replay={path}")
        gates = [
            tf.train.load_variable(str(own / name / f"model.ckpt-{step}"), GATE) for step in (1, 2)
        ]
        assert np.abs(gates[1] - gates[0]).max() > 1e-5
    for layer in (ENCODER, DECODER):
        expected = [
            [*each[-1:], *each[:-1]] for each in trained_loads(own / "as traced", layer, "outer")
        ]
        assert len(expected) == 2
        assert trained_loads(own / "a", layer, "outer") == expected
        assert trained_loads(own / "b", layer, "outer") == expected
        assert expected != trained_loads(own / "as traced", layer, "outer")
    assert "num_microbatches=2" in (own / "b" / "log.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_resume_takes_the_trace_up_again(hmoe: server.Server, own: Path) -> None:
    trace, folder = own / "trace.parquet", own / "resumed"
    run(hmoe, *training(own, "resumed"), "--train_steps=1", f"--replay={trace}")
    # It says so if another one, or none, is asked for.
    without = refused_lines(hmoe, *training(own, "resumed"), "--train_steps=2")
    assert without[1:2] == [
        f"  --replay: {str(trace)!r} -> not set (routing: tokens will go to other experts)"
    ]
    run(hmoe, "train", f"--model_dir={folder}", "--train_steps=2", "--noevaluate")
    assert (folder / "model.ckpt-2.index").exists()
    flags = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert flags["replay"] == str(trace)
    # An evaluation of the model by itself does not.
    run(hmoe, "eval", f"--model_dir={folder}")
    assert (folder / "validation_eval").exists()
    assert not (folder / "validation_eval_replay").exists()


def refused_lines(hmoe: server.Server, *arguments: str) -> list[str]:
    result = hmoe(*arguments)
    assert result.returncode == 2, f"{arguments}\n{result.stdout}{result.stderr}"
    lines = result.stderr.splitlines()
    return lines[next(n for n, line in enumerate(lines) if line.startswith("hmoe: error")) :]


def test_a_resume_on_a_tpu() -> None:
    """The trace of the run that is taken up comes after the checks of flags."""
    resumed = Request(
        command="train", model_dir="m", replay="/a.parquet", machine=Machine(tpu="local")
    )
    with pytest.raises(ValueError) as caught:
        replay.of_request(resumed)
    assert str(caught.value) == (
        "the run replays /a.parquet, and that on CPUs and GPUs; leave --tpu out, or begin a run of"
        " its own without --replay"
    )


@pytest.mark.slow
def test_an_example_that_was_not_traced(hmoe: server.Server, own: Path) -> None:
    # One of the two inputs is held out.
    pairs = [f"{word}\t{word}" for word in ("zinnia", "dahlia")] * 40
    (own / "more.tsv").write_text("\n".join(pairs) + "\n", encoding="utf-8")
    arguments = [each.replace("pairs.tsv", "more.tsv") for each in training(own, "unknown")]
    trace = own / "trace.parquet"
    assert refused(hmoe, *arguments, "--train_steps=2", f"--replay={trace}") == (
        f"hmoe: error: --replay: {trace} has no example that reads inputs 'dahlia<end>'; targets"
        " '<start>dahlia'; trace the examples that are to be replayed with `hmoe trace`, with the"
        " same data and sequence lengths"
    )
    assert not list((own / "unknown").glob("model.ckpt*"))


@pytest.mark.slow
def test_packed_examples(hmoe: server.Server, own: Path) -> None:
    packed = bound("mesh_train_dataset_fn.pack = True")
    trace = own / "trace.parquet"
    assert refused(hmoe, *training(own, "packed"), *packed, f"--replay={trace}") == (
        "hmoe: error: --replay: the data has several examples in a sequence, which a trace does not"
        " have; give each a sequence of its own with mesh_train_dataset_fn.pack = False"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (
            "inner/Level.num_experts = 8",
            f"--replay: in the trace, {ENCODER} has 4 experts with 2 choices a token, then 4"
            " experts with 2 choices a token, but the model's has 4 experts with 2 choices a token,"
            " then 8 experts with 2 choices a token; replay a trace of a model with the same levels",
        ),
        (
            "outer/TopKRouter.retries = 1",
            "level 'outer': no choices can be replayed: its router has retries = 1, with which a"
            " choice can go to another expert than the recorded one; set retries = 0",
        ),
        (
            "num_blocks = 2",
            "--replay: the trace has no choices of encoder/block_001/layer_001, only of"
            f" {ENCODER}, {DECODER}; replay a trace of a model with the same layers",
        ),
    ],
)
def test_models_that_the_trace_does_not_fit(
    hmoe: server.Server, own: Path, parameter: str, message: str
) -> None:
    trace = own / "trace.parquet"
    arguments = [*training(own, "other"), *bound(parameter), f"--replay={trace}"]
    assert refused(hmoe, *arguments) == f"hmoe: error: {message}"


@pytest.mark.slow
def test_a_model_of_one_stack(hmoe: server.Server, own: Path) -> None:
    files = ("--gin_file=models/hierarchical_tiny_lm.gin",)
    trace = own / "trace.parquet"
    assert refused(hmoe, *training(own, "lm"), *files, f"--replay={trace}") == (
        "hmoe: error: --replay needs a model with an encoder and a decoder (utils.run.model_type ="
        " 'bitransformer'); this one is of type 'delimited_lm'"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--replay={folder}/no"], "--replay '{folder}/no' does not exist"),
        (["--replay={folder}"], "--replay '{folder}' is a folder; give the file in it"),
        (["--replay="], "--replay is empty; give it a value, or leave it out"),
        (
            ["--replay={folder}/text"],
            "{folder}/text: no Parquet file, or a damaged one (Could not open Parquet input source"
            " '<Buffer>': Parquet magic bytes not found in footer. Either the file is corrupted or"
            " this is not a parquet file.); a trace is written by `hmoe trace`",
        ),
        (
            ["--replay={folder}/text", "--tpu=local"],
            "--replay '{folder}/text' runs on CPUs and GPUs; leave --tpu out, or --replay",
        ),
        (
            ["--replay={folder}/text", "--workers=127.0.0.1:1,127.0.0.1:2", "--worker_index=0"],
            "--replay '{folder}/text' runs in one process, which looks up the examples of each"
            " batch; leave --workers out, or --replay",
        ),
    ],
)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_bad_flags(
    hmoe: server.Server, tmp_path: Path, command: str, words: list[str], message: str
) -> None:
    (tmp_path / "text").write_text("This is a line of text, and no trace.\n", encoding="utf-8")
    given = [word.format(folder=tmp_path) for word in words]
    arguments = [command, f"--model_dir={tmp_path}/model", "--gin_file=runs/tiny.gin"]
    assert refused(hmoe, *arguments, *given) == f"hmoe: error: {message.format(folder=tmp_path)}"
    assert not (tmp_path / "model").exists()
