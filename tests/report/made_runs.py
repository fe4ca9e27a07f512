"""Folders of runs made by hand, as training leaves them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hmoe.analysis import retention_scores, traces
from hmoe.analysis.retention_scores import RetentionScore, RetentionStudy
from hmoe.analysis.traces import Category, Trace
from tests.analysis import made_traces

LAYER = "encoder/block_000/layer_001"
GIN = "# Parameters for utils.run:\nutils.run.train_steps = 9\n"


def line(step: int, **numbers: float) -> dict[str, float]:
    """Returns a line of metrics; "__" in a name stands for "/", and "L" in front for the layer."""
    named = {name.replace("L__", f"{LAYER}__").replace("__", "/"): n for name, n in numbers.items()}
    return {"step": step, "time": 1000.0 + step, **named}


def lines(count: int, every: int = 10, high: float = 2.0) -> list[dict[str, float]]:
    """Returns lines of a run with two levels whose loss and imbalance fall."""
    found = []
    for number in range(1, count + 1):
        numbers = {"loss": high / number, "cross_ent_loss": high / number - 0.01}
        numbers["L__load_imbalance"] = 1.7  # of the layer from end to end
        for level, size in (("outer", 2), ("inner", 3)):
            top = 1 / size + 0.3 / number
            numbers |= {
                f"L__{level}__load_imbalance": top * size,
                f"L__{level}__max_violation": top * size - 1,
                f"L__{level}__fraction_tokens_dropped": 0.1 / number,
                f"L__{level}__fraction_arrivals_dropped": 0.2 / number,
                f"L__{level}__dead_experts": float(number == 1),
                f"L__{level}__load_0": top,
                **{f"L__{level}__load_{i}": (1 - top) / (size - 1) for i in range(1, size)},
            }
        found.append(line(number * every, **numbers))
    return found


def make(
    folder: Path, found: Sequence[dict[str, float]], gin: str = GIN, data: str = "pairs.tsv"
) -> Path:
    """Makes the folder of a run, and returns it."""
    folder.mkdir()
    text = "".join(f"{json.dumps(each)}\n" for each in found)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    (folder / "operative_config.gin").write_text(gin, encoding="utf-8")
    (folder / "run.json").write_text(json.dumps({"data": data}), encoding="utf-8")
    return folder


# What would set a field of the window wherever it is not escaped.
HOSTILE = "_$x^$ </script></style><script>window.hostile = 1</script><img src=x onerror='window.hostile=1'>\"`"


def make_hostile(folder: Path) -> Path:
    """Makes the folder of a run of which all texts hold markup: layers, labels, tokens, and more."""
    found = [
        {name.replace("block_000", f"block_000{HOSTILE}"): value for name, value in each.items()}
        for each in lines(12)
    ]
    make(folder, found, gin=f"{GIN}# {HOSTILE}\n", data=HOSTILE)
    for step in (5, 10):
        traces.write(str(folder / f"trace-{step}.parquet"), hostile_trace(step))
    scores = [
        RetentionScore(HOSTILE, "all", 1.0, 0.5, 7),
        RetentionScore(HOSTILE, "top_leaves", 0.5, 0.75, 7),
        RetentionScore(HOSTILE, "without_group", 0.5, 1.5, 7, group=1),
    ]
    study = RetentionStudy(HOSTILE, 10, HOSTILE, HOSTILE, tuple(scores))
    retention_scores.write(str(folder / "retention-10-x.json"), study)
    return folder


def hostile_trace(step: int) -> Trace:
    """Returns a trace of a checkpoint of which all texts hold markup."""
    random = np.random.default_rng(step)
    experts = np.stack([random.integers(0, size, (12, 2, 9)) for size in (2, 3)], -1)
    labels = [f"{HOSTILE}{number % 5}" for number in range(12)]
    layers = [f"encoder/block_00{number}{HOSTILE}/layer_001" for number in range(2)]
    found = made_traces.of_experts(experts, (2, 3), labels, layers=layers)
    label = f"../{HOSTILE}"
    manifest = dataclasses.replace(
        found.manifest, step=step, labels=(label,), settings={HOSTILE: HOSTILE}, version=HOSTILE
    )
    pieces = found.categories["piece"]
    hostile = Category(pieces.codes, tuple(f"{HOSTILE}{name}" for name in pieces.names))
    categories = {**found.categories, "piece": hostile, f"label/{label}": found.label("language")}
    return Trace(manifest, found.numbers, categories)
