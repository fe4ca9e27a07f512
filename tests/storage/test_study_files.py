"""Names of traces and studies, which a run that begins anew moves aside."""

from __future__ import annotations

import pytest

from hmoe.storage import study_files


@pytest.mark.parametrize(
    ("what", "name"),
    [
        (None, "trace-7.parquet"),
        ("train", "trace-7-train.parquet"),
        ("train.tsv", "trace-7-train_tsv.parquet"),
        (".tsv", "trace-7-_tsv.parquet"),
        ("my (own) data.tsv.gz", "trace-7-my_own_data_tsv_gz.parquet"),
        ("\N{HIRAGANA LETTER A}" * 80, "trace-7-" + "\N{HIRAGANA LETTER A}" * 50 + ".parquet"),
    ],
)
def test_names_of_traces(what: str | None, name: str) -> None:
    assert study_files.trace_name(7, what) == name
    assert study_files.ANY.fullmatch(name)
    assert bool(study_files.TRACE.fullmatch(name)) == (what is None)
    assert len(name.encode("utf-8")) < 255


def test_names_of_studies() -> None:
    name = study_files.retention_name(7, "language")
    assert name == "retention-7-language.json"
    match = study_files.RETENTION.fullmatch(name)
    assert match is not None
    assert match.group(1) == "7"
    assert study_files.ANY.fullmatch(name)
    assert not study_files.ANY.fullmatch("trace-7.parquet.bak")
