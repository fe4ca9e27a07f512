"""`hmoe trace` by the command: beside the metrics of an evaluation, engines, meshes and types."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmoe.analysis import traces
from hmoe.analysis.traces import LevelInfo, Trace
from hmoe.compat.stack import tf
from hmoe.t5.data import cldr
from hmoe.t5.data.shards import WHOLE
from hmoe.version import __version__
from tests import tolerances
from tests.t5 import server
from tests.t5.commands import traced_model
from tests.t5.commands.traced_model import run

NUM_EXAMPLES = 21
TEXT = "Some running text, long enough for a span."
# Those of runs/default.gin.
LANGUAGES = ("ar", "de", "el", "en", "es", "fr", "hi", "ja", "ko", "pt", "ru", "zh")
ENCODER, DECODER = "encoder/block_000/layer_001", "decoder/block_000/layer_002"
VARIANTS = {
    "einsum": ["hmoe.HierarchicalMoE.engine = 'einsum'"],
    "one device": [
        "utils.run.mesh_shape = ''",
        "utils.run.layout_rules = ''",
        "utils.run.mesh_devices = ['']",
    ],
    "batch": ["utils.run.batch_size = 32"],
}


@pytest.fixture(scope="module")
def model(hmoe: server.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced_model.train(hmoe, tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def traced(hmoe: server.Server, model: Path) -> Trace:
    run(hmoe, "trace", f"--model_dir={model}")
    return traces.read(str(model / "trace-3.parquet"))


@pytest.fixture(scope="module")
def evaluated(hmoe: server.Server, model: Path) -> dict[str, float]:
    run(hmoe, "eval", f"--model_dir={model}")
    (path,) = model.glob("*_eval/metrics.jsonl")
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])


def test_the_run_tells_what_trained_it(model: Path) -> None:
    (versions,) = json.loads((model / "run.json").read_text(encoding="utf-8"))["versions"]
    assert list(versions) == ["from_step", "hmoe", "tensorflow", "mesh_tensorflow", "t5", "python"]
    assert versions["from_step"] == 0
    assert versions["hmoe"] == __version__
    assert versions["tensorflow"] == tf.__version__


def test_says_what_it_is_of(traced: Trace, model: Path) -> None:
    manifest = traced.manifest
    assert (manifest.step, manifest.checkpoint) == (3, f"{model}/model.ckpt-3")
    assert manifest.num_examples == 21
    assert manifest.labels == ("language", "kind")
    levels = tuple(LevelInfo(name, 4, 2, "TopKRouter") for name in ("outer", "inner"))
    assert [(each.name, each.sequence, each.levels) for each in manifest.layers] == [
        (ENCODER, "inputs", levels),
        (DECODER, "targets", levels),
    ]
    assert manifest.settings == {
        "activations": "float32",
        "mesh": "rows:2;cols:2",
        "layout": "batch:cols;expert_x:cols;expert_y:rows;experts:cols;outer_batch:rows",
        "batch size": "16",
        "data": "cldr_formats",
        "split": "validation",
    }
    assert set(traced.words("label/kind")) <= {
        "date",
        "number",
        "money",
        "unit",
        "time",
        "list",
    } | {str(each) for each in traced.categories["label/kind"].names}


def test_tokens_are_those_of_the_text(traced: Trace) -> None:
    first = traced.rows_of(ENCODER) & (traced.numbers["example"] == 0)
    outermost = first & (traced.numbers["level"] == 0) & (traced.numbers["rank"] == 0)
    pieces = traced.words("piece")[outermost]
    text = "".join(pieces[:-1])
    language, kind = (traced.words(f"label/{name}")[outermost][0] for name in ("language", "kind"))
    assert text.startswith(f"{language} ")
    assert kind.split()[0] in text
    assert pieces[-1] == "<end>"
    of_decoder = traced.rows_of(DECODER) & (traced.numbers["position"] == 0)
    assert set(traced.words("piece")[of_decoder]) == {"<start>"}


@pytest.mark.parametrize("layer", [ENCODER, DECODER])
@pytest.mark.parametrize("number", [0, 1])
def test_counts_are_those_of_the_metrics(
    traced: Trace, evaluated: dict[str, float], layer: str, number: int
) -> None:
    """The metrics are summed inside the graph, from other tensors."""
    level = ("outer", "inner")[number]
    rows = traced.rows_of(layer) & (traced.numbers["level"] == number)
    numbers = {name: values[rows] for name, values in traced.numbers.items()}

    def metric(name: str) -> float:
        return evaluated[f"eval/{layer}/{level}/{name}"]

    is_choice = numbers["expert"] >= 0
    load = np.bincount(numbers["expert"][is_choice], minlength=4) / is_choice.sum()
    tolerances.assert_close(load, [metric(f"load_{n}") for n in range(4)], tolerances.SAME)
    # A full token is there with its best expert, and a copy of half importance with that alone.
    copies = len(np.unique(np.stack([numbers[n] for n in COPY]), axis=1).T)
    full = np.count_nonzero(numbers["rank"] == 1)
    assert 0 < full <= copies
    second = numbers["rank"] == 1
    kept = (numbers["went"][second] >= 0).mean()
    tolerances.assert_close(kept, metric("fraction_routed_rank_1"), tolerances.SAME)
    weight = numbers["weight"][second].mean()
    tolerances.assert_close(weight, metric("gate_mean_rank_1"), tolerances.SAME)
    arrived = {tuple(row) for row in np.stack([numbers[n] for n in COPY], 1)[numbers["went"] >= 0]}
    dropped = 1 - len(arrived) / copies
    tolerances.assert_close(dropped, metric("fraction_arrivals_dropped"), tolerances.SAME)


COPY = ("example", "position", "path", "parent")


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_none_flips_on_another_engine_mesh_or_batch(
    hmoe: server.Server, model: Path, traced: Trace, tmp_path: Path, variant: str
) -> None:
    other = tmp_path / "other.parquet"
    parameters = [f"--gin_param={each}" for each in VARIANTS[variant]]
    run(hmoe, "trace", f"--model_dir={model}", f"--output={other}", *parameters)
    compared = compare(hmoe, model / "trace-3.parquet", other)
    assert [(each["layer"], each["level"]) for each in compared] == [
        (layer, level) for layer in (ENCODER, DECODER) for level in ("outer", "inner")
    ]
    outermost = np.unique(
        np.stack([traced.numbers[n] for n in ("example", "position")])[:, traced.rows_of(ENCODER)],
        axis=1,
    )
    assert compared[0]["tokens"] == outermost.shape[1]
    for each in compared:
        assert each["sure"] > 0.9 * each["tokens"] > 0
        assert each["sure_flipped"] == 0, each


@pytest.mark.slow
def test_processes_write_one_trace(
    hmoe: server.Server, model: Path, traced: Trace, tmp_path: Path
) -> None:
    other = tmp_path / "other.parquet"
    flags = [f"--model_dir={model}", f"--output={other}"]
    mesh = ["--gin_param=utils.run.mesh_shape = 'rows:1;cols:2'"]
    ended = server.once("launch", "-n", "2", "--", "trace", *flags, *mesh)
    assert ended.returncode == 0, ended.stderr
    assert len(traces.read(str(other))) == len(traced)
    compared = compare(hmoe, model / "trace-3.parquet", other)
    assert [each["sure_flipped"] for each in compared] == [0] * 4


@pytest.mark.usefixtures("traced")
def test_one_file_for_several_checkpoints(hmoe: server.Server, model: Path, tmp_path: Path) -> None:
    number = len(list(model.glob("model.ckpt-*.index")))
    assert number > 1
    output = tmp_path / "out.parquet"
    asked = "--gin_param=utils.run.eval_checkpoint_step = 'all'"
    result = hmoe("trace", f"--model_dir={model}", f"--output={output}", asked)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"hmoe: error: --output '{output}' is one file, but {number} checkpoints are asked for"
        " (utils.run.eval_checkpoint_step); leave it out, and each gets its own in the model's"
        " folder"
    )
    assert not output.exists()


def test_all_checkpoints(hmoe: server.Server, model: Path, tmp_path: Path) -> None:
    """As the report recommends where it has a trace of one checkpoint alone."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("trace-*"))
    steps = [each.stem.removeprefix("model.ckpt-") for each in folder.glob("model.ckpt-*.index")]
    assert len(steps) > 1
    asked = '--gin_param=utils.run.eval_checkpoint_step = "all"'
    run(hmoe, "trace", f"--model_dir={folder}", "--examples=2", asked)
    found = {each.name for each in folder.glob("trace-*")}
    assert found == {f"trace-{step}.parquet" for step in steps}
    files = [folder / f"trace-{step}.parquet" for step in steps[:2]]
    before, after = (outer_choices(traces.read(str(each))) for each in files)
    assert before.keys() == after.keys()
    flipped = sum(before[token] != after[token] for token in before)
    outer = compare(hmoe, *files)[0]
    assert (outer["layer"], outer["level"]) == (ENCODER, "outer")
    assert (outer["tokens"], outer["flipped"]) == (len(before), flipped)
    assert flipped > 0


def outer_choices(trace: Trace) -> dict[tuple[int, int], set[int]]:
    """The experts that each token of the encoder's layer chose at its outer level."""
    rows = trace.rows_of(ENCODER) & (trace.numbers["level"] == 0)
    found: dict[tuple[int, int], set[int]] = {}
    columns = [trace.numbers[name][rows] for name in ("example", "position", "expert")]
    for example, position, expert in zip(*columns):
        found.setdefault((example, position), set()).add(expert)
    return found


def compare(hmoe: server.Server, first: Path, second: Path) -> list[dict[str, Any]]:
    return json.loads(run(hmoe, "trace", "--json", "--compare", str(first), str(second)))


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_what_bfloat16_flips_is_reported(hmoe: server.Server, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    parameter = "--gin_param=hmoe.Session.activation_dtype = 'bfloat16'"
    run(hmoe, "trace", f"--model_dir={model}", f"--output={other}", parameter)
    assert traces.read(str(other)).manifest.settings["activations"] == "bfloat16"
    compared = compare(hmoe, model / "trace-3.parquet", other)
    # Rounding flips some of them, and few: 8 bits of mantissa move scores by about one percent.
    assert sum(each["flipped"] for each in compared) > 0
    assert all(each["rate"] < 0.1 for each in compared), compared
    shown = run(hmoe, "trace", "--compare", str(model / "trace-3.parquet"), str(other))
    assert f"{compared[0]['flipped']:,}" in shown.splitlines()[4]


def test_some_examples(hmoe: server.Server, model: Path, tmp_path: Path) -> None:
    some = tmp_path / "new" / "some.parquet"
    said = run(hmoe, "trace", f"--model_dir={model}", "--examples=5", f"--output={some}")
    found = traces.read(str(some))
    assert found.manifest.num_examples == 5
    assert set(found.numbers["example"]) == set(range(5))
    assert said == ""  # what it does is said beside the answers


def test_a_file_of_the_same_examples(
    hmoe: server.Server, model: Path, traced: Trace, tmp_path: Path
) -> None:
    """The examples of the evaluation as a file of pairs, with a bad line among them."""
    settings = cldr.FormatSettings(languages=LANGUAGES)
    rows = itertools.islice(cldr.format_examples("validation", settings, WHOLE), NUM_EXAMPLES)
    lines = [f"{row.inputs}\t{row.targets}" for row in rows]
    pairs = tmp_path / "my pairs.tsv"
    pairs.write_text("\n".join(["no tab", *lines]) + "\n", "utf-8")
    before = (model / "trace-3.parquet").read_bytes()
    run(hmoe, "trace", f"--model_dir={model}", f"--data={pairs}", "--skip_bad_lines")
    (written,) = model.glob("trace-3-my_pairs-*.parquet")
    found = traces.read(str(written))
    written.unlink()
    assert (model / "trace-3.parquet").read_bytes() == before
    assert found.manifest.settings["data"] == str(pairs)
    assert found.manifest.num_examples == NUM_EXAMPLES
    assert found.manifest.labels == ()
    assert sorted(found.numbers) == sorted(traced.numbers)
    for name, values in traced.numbers.items():
        np.testing.assert_array_equal(found.numbers[name], values, name)


def test_some_of_a_file_of_text(hmoe: server.Server, model: Path, tmp_path: Path) -> None:
    text, output = tmp_path / "notes", tmp_path / "notes.parquet"
    text.write_text(f"{TEXT}\n\n" * 5, "utf-8")
    flags = (f"--data={text}", "--data_format=text", "--examples=2", f"--output={output}")
    run(hmoe, "trace", f"--model_dir={model}", *flags)
    found = traces.read(str(output))
    assert found.manifest.num_examples == 2
    assert "split" not in found.manifest.settings
    first = found.rows_of(ENCODER) & (found.numbers["example"] == 0)
    first &= (found.numbers["level"] == 0) & (found.numbers["rank"] == 0)
    pieces = found.words("piece")[first]
    spans = "".join(each if len(each) == 1 else "|" for each in pieces).split("|")
    # What the corruption leaves of the text, in its order, ended by the end mark.
    assert len(spans) > 2
    assert re.search(".+".join(map(re.escape, filter(None, spans))), "\n".join(5 * [TEXT]), re.S)


def test_another_split_has_a_file_of_its_own(hmoe: server.Server, model: Path) -> None:
    before = (model / "trace-3.parquet").read_bytes()
    run(hmoe, "trace", f"--model_dir={model}", "--split=train", "--examples=2")
    written = model / "trace-3-train.parquet"
    assert traces.read(str(written)).manifest.settings["split"] == "train"
    written.unlink()
    assert (model / "trace-3.parquet").read_bytes() == before


def test_a_line_that_a_user_types(hmoe: server.Server, model: Path) -> None:
    line = "de full date: 2037-07-15"
    (answer,) = run(hmoe, "predict", f"--model_dir={model}", line).splitlines()
    shown = run(hmoe, "trace", f"--model_dir={model}", line).splitlines()
    assert shown[0] == f"{line} -> {answer}"
    begin = shown.index("Tokens of inputs")
    assert shown[begin + 2].split() == ["token", ENCODER]
    tokens = shown[begin + 4 : begin + 4 + len(line) + 1]
    assert tokens[0].split()[0] == "d"
    assert tokens[-1].split()[0] == "<end>"
    after = shown[shown.index("Tokens of targets") :]
    assert after[2].split() == ["token", DECODER]
    assert after[4].split()[0] == "<start>"


def test_lines_that_a_user_types_as_a_file(
    hmoe: server.Server, model: Path, tmp_path: Path
) -> None:
    before = sorted(model.iterdir())
    output = tmp_path / "typed.parquet"
    lines = ("de full date: 2037-07-15", "en unit: 3 kg")
    run(hmoe, "trace", f"--model_dir={model}", f"--output={output}", *lines)
    found = traces.read(str(output))
    assert found.manifest.num_examples == len(lines)
    assert found.manifest.settings["data"] == "lines that were typed"
    for number, line in enumerate(lines):
        rows = found.rows_of(ENCODER) & (found.numbers["example"] == number)
        rows &= (found.numbers["level"] == 0) & (found.numbers["rank"] == 0)
        assert "".join(found.words("piece")[rows]) == f"{line}<end>"
    assert sorted(model.iterdir()) == before


@pytest.mark.slow
def test_a_model_without_experts(hmoe: server.Server, tmp_path: Path) -> None:
    folder = tmp_path / "dense"
    flags = (f"--model_dir={folder}", "--gin_file=models/dense_tiny.gin")
    files = ("--gin_file=runs/tiny.gin", "--gin_param=train_steps = 1")
    run(hmoe, "train", files[0], *flags[1:], flags[0], files[1])
    result = hmoe("trace", flags[0])
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "hmoe: error: the model has no hmoe.MoELayer, so nothing is routed in it that could be"
        " traced"
    )
    assert not list(folder.glob("*.parquet"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model_dir={model}", "--output={model}"],
            "hmoe: error: --output '{model}' is a folder; name a file in it",
        ),
        (
            ["--model_dir={model}", "--output=/dev/null"],
            "hmoe: error: --output '/dev/null' is a pipe or a device; name a file",
        ),
        (
            ["--model_dir={model}", "--output={model}/metrics.jsonl"],
            "hmoe: error: --output '{model}/metrics.jsonl' would replace a file of the model in"
            " '{model}'; name another file to write to",
        ),
        (
            ["--compare", "{model}/checkpoint", "{model}/trace-3.parquet"],
            "hmoe: error: {model}/checkpoint: no Parquet file, or a damaged one (Could not open"
            " Parquet input source '<Buffer>': Parquet magic bytes not found in footer. Either the"
            " file is corrupted or this is not a parquet file.); a trace is written by `hmoe trace`",
        ),
        (
            ["--compare", "{model}/nothing", "{model}/nothing"],
            "hmoe: error: {model}/nothing: No such file or directory",
        ),
        (["--json"], "hmoe trace: error: --json goes with --compare"),
        (["text", "--examples=3"], "hmoe trace: error: give either a text or --examples"),
        (["text", "--split=train"], "hmoe trace: error: give either a text or --split"),
        (["text", "--data=a.tsv"], "hmoe trace: error: give either a text or --data"),
        (
            ["--split=train", "--data=a.tsv"],
            "hmoe trace: error: give either --split or --data, of which all is traced",
        ),
        (["--skip_bad_lines"], "hmoe trace: error: --skip_bad_lines goes with --data"),
        (
            ["--model_dir={model}", "--data={model}/../pairs.tsv", "--output={model}/../pairs.tsv"],
            "hmoe: error: --output '{model}/../pairs.tsv' would replace --data"
            " '{model}/../pairs.tsv'; name another file to write to",
        ),
        (
            ["--compare", "a", "b", "--data=a.tsv"],
            "hmoe trace: error: --data does not go with --compare, which reads two traces alone",
        ),
        (
            ["--model_dir={model}", "--data={model}/nothing.tsv"],
            "hmoe: error: --data '{model}/nothing.tsv' does not exist",
        ),
        (
            ["--model_dir={model}", "--data={model}/config.gin"],
            "hmoe: error: {model}/config.gin: the extension '.gin' does not show what the file"
            " contains; use .tsv (pairs: input, tab, target) or .txt (running text), also with .gz,"
            " or say it with --data_format=pairs or --data_format=text",
        ),
        (
            ["--compare", "a", "b", "--examples=3"],
            "hmoe trace: error: --examples does not go with --compare, which reads two traces"
            " alone",
        ),
        (
            ["--compare", "a", "b", "--model_dir=m"],
            "hmoe trace: error: --model_dir does not go with --compare, which reads two traces"
            " alone",
        ),
    ],
)
@pytest.mark.usefixtures("traced")
def test_bad_input(hmoe: server.Server, model: Path, words: list[str], message: str) -> None:
    before = sorted(model.iterdir())
    result = hmoe("trace", *(word.format(model=model) for word in words))
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == message.format(model=model)
    assert sorted(model.iterdir()) == before
