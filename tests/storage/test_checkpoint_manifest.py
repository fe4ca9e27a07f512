"""Manifests of any content: they are read, or it is said what is wrong."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmoe.storage import checkpoint_manifest
from tests.storage import fake_checkpoints as fake

NAME = "model.ckpt-4.manifest.json"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FILES = st.lists(
    st.fixed_dictionaries(
        {"name": st.text() | st.just("model.ckpt-4.index"), "size": JSON, "blake2b": st.text()}
    )
)
MANIFESTS = st.fixed_dictionaries(
    {"format": st.just(1), "step": st.just(4), "saved": JSON, "kept": st.booleans(), "files": FILES}
)


def problem_of(content: bytes) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / NAME).write_bytes(content)
        return checkpoint_manifest.problem_of(folder, 4)


@settings(max_examples=60, deadline=None)
@given(st.binary() | (JSON | MANIFESTS).map(lambda value: json.dumps(value).encode()))
def test_any_content(content: bytes) -> None:
    problem = problem_of(content)
    assert problem is not None, "there are no other files"
    assert problem.startswith((NAME, "model.ckpt-4."))


@pytest.mark.parametrize("content", [b"[" * 10**5, b'{"format": 1}', b"null", b"\xff"])
def test_content_that_is_no_manifest(content: bytes) -> None:
    assert problem_of(content) == f"{NAME} is damaged and cannot be read"


def test_what_was_written_is_read(tmp_path: Path) -> None:
    fake.save(tmp_path, 4)
    manifest = checkpoint_manifest.read(str(tmp_path), 4)
    assert (manifest.step, manifest.kept) == (4, False)
    assert [(record.name, record.size) for record in manifest.files] == [
        (name, (tmp_path / name).stat().st_size)
        for name in fake.names(tmp_path)
        if name not in (NAME, "checkpoint")
    ]
    checkpoint_manifest.keep(str(tmp_path), manifest)
    assert checkpoint_manifest.read(str(tmp_path), 4) == manifest._replace(kept=True)


def test_a_file_is_read_again_only_if_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.save(tmp_path, 4)
    compute = checkpoint_manifest._compute
    read: list[str] = []
    monkeypatch.setattr(
        checkpoint_manifest, "_compute", lambda path: [read.append(path), compute(path)][1]
    )
    for _ in range(3):
        assert checkpoint_manifest.problem_of(str(tmp_path), 4) is None
    assert read == []
    index = tmp_path / "model.ckpt-4.index"
    index.write_bytes(index.read_bytes()[::-1])
    assert checkpoint_manifest.problem_of(str(tmp_path), 4) is not None
    assert read == [str(index)]
