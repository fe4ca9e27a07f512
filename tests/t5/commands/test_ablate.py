"""`hmoe ablate` by the command: beside `hmoe score`, and with what cannot be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hmoe.analysis import retention_scores, traces
from hmoe.analysis.retention_scores import RetentionScore
from hmoe.version import __version__
from tests import tolerances
from tests.t5 import server
from tests.t5.commands import traced_model
from tests.t5.commands.traced_model import run

pytestmark = pytest.mark.slow

LABEL = "de"


@pytest.fixture(scope="module")
def model(hmoe: server.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced_model.train(hmoe, tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def shown(hmoe: server.Server, model: Path) -> list[str]:
    """The lines of the command, whose losses are in the model's folder then."""
    run(hmoe, "trace", f"--model_dir={model}")
    return run(hmoe, "ablate", f"--model_dir={model}", "--examples=3", "--seeds=1").splitlines()


@pytest.fixture(scope="module")
def scores(model: Path, shown: list[str]) -> list[RetentionScore]:
    assert shown[0] == "Loss with a share of the experts"
    study = retention_scores.read(str(model / "retention-3-language.json"))
    assert (study.label, study.step, study.version) == ("language", 3, __version__)
    assert study.trace == str(model / "trace-3.parquet")
    return list(study.scores)


def test_all_ways_for_every_label(model: Path, scores: list[RetentionScore]) -> None:
    manifest = traces.read(str(model / "trace-3.parquet")).manifest
    labels = {each.label for each in scores}
    assert LABEL in labels
    for label in labels:
        ways = [each.kept for each in scores if each.label == label]
        assert ways.count("all") == 1
        assert ways.count("top_groups") == ways.count("random_leaves") == 3
        assert ways.count("without_group") == 4 * len(manifest.layers)


def test_with_all_experts_it_is_the_score(
    hmoe: server.Server, model: Path, tmp_path: Path, scores: list[RetentionScore]
) -> None:
    """Of the same lines, which an evaluation writes."""
    run(hmoe, "eval", f"--model_dir={model}")
    (folder,) = model.glob("*_eval")
    lines = [
        (folder / f"cldr_formats_{name}").read_text(encoding="utf-8").splitlines()
        for name in ("inputs", "targets")
    ]
    pairs = [pair for pair in zip(*lines) if pair[0].startswith(f"{LABEL} ")][:3]
    for name, texts in zip(("inputs", "targets"), zip(*pairs)):
        (tmp_path / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    flags = (f"--input_file={tmp_path}/inputs", f"--target_file={tmp_path}/targets")
    printed = run(hmoe, "score", f"--model_dir={model}", *flags, f"--output_file={tmp_path}/out")
    del printed
    likelihoods, lengths = (
        np.loadtxt(tmp_path / f"out.{end}", ndmin=1) for end in ("scores", "lengths")
    )
    (found,) = [each for each in scores if (each.label, each.kept) == (LABEL, "all")]
    assert found.num_targets == lengths.sum()
    # `hmoe score` writes six digits.
    tolerances.assert_close(found.loss, -likelihoods.sum() / lengths.sum(), tolerances.SAME)


def test_leaving_experts_out_matters(scores: list[RetentionScore]) -> None:
    of_label = {(each.kept, each.share): each.loss for each in scores if each.label == LABEL}
    losses = {kept: loss for (kept, share), loss in of_label.items() if share <= 0.25}
    assert set(losses) == set(retention_scores.WAYS)
    # A group at random may be the one that is used most.
    assert len(set(losses.values()) | {of_label["all", 1.0]}) >= 4


def test_prints_what_it_writes(scores: list[RetentionScore], shown: list[str]) -> None:
    (loss,) = [
        each.loss
        for each in scores
        if (each.label, each.kept, each.share) == (LABEL, "top_groups", 0.5)
    ]
    (row,) = [line.split() for line in shown if line.split()[:2] == [LABEL, "50%"]]
    assert row[3] == f"{loss:.3f}"


def test_without_a_trace(hmoe: server.Server, model: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.parquet"
    result = hmoe("ablate", f"--model_dir={model}", f"--trace={missing}")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"hmoe: error: {missing}: no such trace, from which the experts that each label uses are"
        f" read; write it with `hmoe trace --model_dir={model}`, or name another with --trace"
    )


@pytest.mark.usefixtures("shown")
def test_values_that_the_evaluation_does_not_have(
    hmoe: server.Server, model: Path, tmp_path: Path
) -> None:
    used = traces.read(str(model / "trace-3.parquet"))
    kind = used.label("kind")
    named = dataclasses.replace(kind, names=tuple(f"{name}s" for name in kind.names))
    categories = {**used.categories, "label/kind": named}
    path, output = tmp_path / "trace.parquet", tmp_path / "out.json"
    traces.write(str(path), dataclasses.replace(used, categories=categories))
    flags = ("--label=kind", f"--trace={path}", f"--output={output}")
    result = hmoe("ablate", f"--model_dir={model}", *flags)
    assert result.returncode == 2
    values = ", ".join(repr(name) for name in sorted(named.names))
    assert result.stderr.splitlines()[-1] == (
        f"hmoe: error: --label=kind: the evaluation has no example of {values}, the values in the"
        " trace; evaluate more examples, or name a trace of the same data with --trace"
    )
    assert not output.exists()


@pytest.mark.usefixtures("shown")
def test_an_unknown_label(hmoe: server.Server, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    result = hmoe("ablate", f"--model_dir={model}", "--label=color", f"--output={output}")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "hmoe: error: the trace has no label 'color'; it has 'language', 'kind'"
    )
    assert not output.exists()
