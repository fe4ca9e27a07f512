"""Names of traces and studies, which a run that begins anew moves aside."""

from __future__ import annotations

from hmoe.storage import study_files


def test_names_of_traces() -> None:
    """All of them different, and none but the first that of the evaluation's trace."""
    assert study_files.trace_name(7) == "trace-7.parquet"
    assert study_files.trace_name(7, "train") == "trace-7-train.parquet"
    long = "\N{HIRAGANA LETTER A}" * 60
    files = ("train.tsv", "train.txt", "a/train.tsv", ".tsv", "my (own) data.tsv.gz", "train")
    long_files = (f"{long}1.tsv", f"{long}2.tsv")
    names = [study_files.trace_name(7, data=each) for each in (*files, *long_files)]
    names += [study_files.trace_name(7, "train"), study_files.trace_name(8, "train")]
    assert len(set(names)) == len(names)
    assert names[4].startswith("trace-7-my_own_data-")
    for name in names:
        assert study_files.ANY.fullmatch(name)
        assert not study_files.TRACE.fullmatch(name)
        assert len(name.encode("utf-8")) < 255
    assert study_files.trace_name(7, data="train.tsv") == names[0]


def test_names_of_studies() -> None:
    name = study_files.retention_name(7, "language")
    assert name == "retention-7-language.json"
    match = study_files.RETENTION.fullmatch(name)
    assert match is not None
    assert match.group(1) == "7"
    assert study_files.ANY.fullmatch(name)
    assert not study_files.ANY.fullmatch("trace-7.parquet.bak")
