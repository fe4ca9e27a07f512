"""Traces are read as they were written, and what is no trace is named."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from hmoe.analysis import traces

from . import made_traces


def test_reads_what_was_written(tmp_path: Path) -> None:
    trace = made_traces.trace(num_examples=3, length=5, leaves=(2, 3), seed=0)
    path = str(tmp_path / "who.parquet")
    traces.write(path, trace)
    found = traces.read(path)
    assert found.manifest == trace.manifest
    for name, dtype in traces.NUMBERS.items():
        assert found.numbers[name].dtype == dtype
        np.testing.assert_array_equal(found.numbers[name], trace.numbers[name])
    for name in traces.category_names(trace.manifest):
        np.testing.assert_array_equal(found.words(name), trace.words(name))


def test_other_programs_read_it(tmp_path: Path) -> None:
    trace = made_traces.trace(num_examples=3, length=5, leaves=(2, 3), seed=0)
    path = str(tmp_path / "who.parquet")
    traces.write(path, trace)
    import pandas

    frame = pandas.read_parquet(path)
    assert list(frame["label/language"].astype(str)) == list(trace.words("label/language"))
    assert frame["expert"].sum() == trace.numbers["expert"].sum()


def test_what_is_no_trace(tmp_path: Path) -> None:
    path = str(tmp_path / "who.parquet")
    Path(path).write_text("nothing of the kind")
    with pytest.raises(ValueError) as caught:
        traces.read(path)
    assert str(caught.value).startswith(f"{path}: no Parquet file, or a damaged one (")
    assert str(caught.value).endswith("; a trace is written by `hmoe trace`")
    parquet.write_table(pyarrow.table({"a": [1]}), path)
    with pytest.raises(ValueError) as caught:
        traces.read(path)
    assert str(caught.value) == (
        f"{path}: a Parquet file, but no trace: it has no manifest; a trace is written by"
        " `hmoe trace`"
    )


def test_a_newer_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "who.parquet")
    monkeypatch.setattr(traces, "FORMAT", 7)
    traces.write(path, made_traces.trace(num_examples=1, length=2, leaves=(2,), seed=0))
    monkeypatch.undo()
    with pytest.raises(ValueError) as caught:
        traces.read(path)
    assert str(caught.value) == (
        f"{path}: a trace of format 7, but this hmoe reads format 1; trace the model again with"
        " this version"
    )


def test_a_missing_column(tmp_path: Path) -> None:
    trace = made_traces.trace(num_examples=1, length=2, leaves=(2,), seed=0)
    path = str(tmp_path / "who.parquet")
    traces.write(path, trace)
    parquet.write_table(parquet.read_table(path).drop_columns(["rank", "piece"]), path)
    with pytest.raises(ValueError) as caught:
        traces.read(path)
    assert str(caught.value) == (
        f"{path}: the trace has no column 'piece', 'rank'; trace the model again with `hmoe trace`"
    )


def test_layers_know_their_leaves() -> None:
    manifest = made_traces.trace(num_examples=1, length=2, leaves=(2, 3), seed=0).manifest
    layer = manifest.layers[0]
    assert layer.num_leaves == 6
    assert manifest.layer(layer.name) is layer
    assert dataclasses.replace(layer, levels=layer.levels[:1]).num_leaves == 2


@pytest.mark.parametrize(
    "manifest",
    [
        b"{not json",
        b"\xff",
        b"[1]",
        b'{"step": 3}',
        b'{"format": 1, "labels": [], "layers": [{"name": "a"}]}',
        b'{"format": 1, "labels": [], "layers": [7]}',
        b'{"format": 1, "labels": [], "layers": [], "step": 3}',
    ],
    ids=["no JSON", "no text", "a list", "no format", "half a layer", "a number", "half"],
)
def test_a_damaged_manifest(tmp_path: Path, manifest: bytes) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"example": [1]}).replace_schema_metadata({b"hmoe trace": manifest})
    parquet.write_table(table, path)
    expected = (
        f"{path}: the manifest of the trace is damaged; trace the model again with `hmoe trace`"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        traces.read(str(path))
