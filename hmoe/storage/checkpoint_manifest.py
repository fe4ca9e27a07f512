"""The manifest of a checkpoint: its files with their sizes and checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from etils import epath

from hmoe.storage import atomic_write

FORMAT = 1
_CHUNK = 1 << 22


class FileRecord(NamedTuple):
    """A file as it was saved.

    Attributes:
      name: its name in the folder of the checkpoint.
      size: its size in bytes.
      blake2b: its checksum, in hexadecimal digits.
    """

    name: str
    size: int
    blake2b: str


class Manifest(NamedTuple):
    """What a checkpoint consists of.

    Attributes:
      step: the checkpoint's step.
      saved: when it was saved, in seconds since 1970.
      kept: whether it is kept for good, however many newer ones there are.
      files: its files, apart from the manifest.
    """

    step: int
    saved: float
    kept: bool
    files: tuple[FileRecord, ...]


# Checksums of files that this process has read or written, by path and state.
_checksums: dict[tuple[str, int, int, int], str] = {}


def name_of(step: int) -> str:
    """Returns the name of a checkpoint's manifest."""
    return f"model.ckpt-{step}.manifest.json"


def write(folder: str, step: int, names: Sequence[str]) -> None:
    """Writes the manifest of a checkpoint whose other files are written.

    Args:
      folder: the folder.
      step: the checkpoint's step.
      names: the names of its other files.

    Raises:
      OSError: a file cannot be read, or the manifest cannot be written.
    """
    for name in names:
        _flush(os.path.join(folder, name))
    files = tuple(_record(folder, name) for name in sorted(names))
    _write(folder, Manifest(step, float(round(time.time(), 3)), False, files))


def keep(folder: str, manifest: Manifest) -> None:
    """Marks a checkpoint as one to keep for good."""
    _write(folder, manifest._replace(kept=True))


def _write(folder: str, manifest: Manifest) -> None:
    fields = {**manifest._asdict(), "files": [record._asdict() for record in manifest.files]}
    text = json.dumps({"format": FORMAT, **fields}, indent=1) + "\n"
    atomic_write.write_text(os.path.join(folder, name_of(manifest.step)), text)
    _flush(folder or ".")


def read(folder: str, step: int) -> Manifest:
    """Reads the manifest of a checkpoint.

    Raises:
      ValueError: there is none that can be read; the message names the file.
    """
    name = name_of(step)
    try:
        fields = json.loads(epath.Path(os.path.join(folder, name)).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged and cannot be read") from error
    if isinstance(fields, dict) and fields.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{name} has a format that this version of hmoe does not know")
    manifest = _manifest(fields)
    if manifest is None:
        raise ValueError(f"{name} is damaged and cannot be read")
    _check(manifest, step)
    return manifest


def _manifest(fields: object) -> Manifest | None:
    """Returns the manifest that JSON describes, or None if something lacks or has another type."""
    types = {"format": int, "step": int, "saved": float, "kept": bool, "files": list}
    if not _has_types(fields, types):
        return None
    assert isinstance(fields, dict)
    of_file = {"name": str, "size": int, "blake2b": str}
    if not all(_has_types(record, of_file) for record in fields["files"]):
        return None
    files = tuple(FileRecord(**record) for record in fields["files"])
    return Manifest(fields["step"], fields["saved"], fields["kept"], files)


def _has_types(fields: object, types: Mapping[str, type]) -> bool:
    """Returns whether a JSON object has exactly these names, with values of these types."""
    return (
        isinstance(fields, dict)
        and fields.keys() == types.keys()
        and all(type(fields[name]) is expected for name, expected in types.items())
    )


def _check(manifest: Manifest, step: int) -> None:
    """Raises ValueError unless a manifest is of this step and names only files of its checkpoint.

    A name such as `../other/model.ckpt-1.index` would lead out of the folder.
    """
    pattern = re.compile(rf"model\.ckpt-{step}\.(index|meta|progress\.json|data-\d+-of-\d+)")
    names = [record.name for record in manifest.files]
    named_well = all(pattern.fullmatch(name) for name in names)
    if manifest.step != step or not named_well or f"model.ckpt-{step}.index" not in names:
        raise ValueError(f"{name_of(step)} is not the manifest of this checkpoint")


def problem_of(folder: str, step: int) -> str | None:
    """Returns what is wrong with a checkpoint that has a manifest; None if it is whole."""
    try:
        manifest = read(folder, step)
    except ValueError as error:
        return str(error)
    for record in manifest.files:
        problem = _problem_of_file(folder, record)
        if problem:
            return problem
    return None


def _problem_of_file(folder: str, record: FileRecord) -> str | None:
    path = os.path.join(folder, record.name)
    try:
        size = epath.Path(path).stat().length
        if size != record.size:
            return f"{record.name} has {size:,} bytes, but had {record.size:,} when it was saved"
        if checksum(path) != record.blake2b:
            return f"{record.name} is damaged: its checksum is not that of when it was saved"
    except FileNotFoundError:
        return f"{record.name} is missing"
    except OSError as error:
        return f"{record.name} cannot be read: {error.strerror}"
    return None


def _record(folder: str, name: str) -> FileRecord:
    path = os.path.join(folder, name)
    return FileRecord(name, epath.Path(path).stat().length, checksum(path))


def checksum(path: str) -> str:
    """Returns the checksum of a file, which is read only once by a process if it stays as it is.

    Raises:
      OSError: the file cannot be read.
    """
    state = _state(path)
    if state not in _checksums:
        _checksums[state] = _compute(path)
    return _checksums[state]


def _state(path: str) -> tuple[str, int, int, int]:
    """Returns what changes when a file is written: its size, its time, its place on the disk."""
    if "://" in path:
        stat = epath.Path(path).stat()
        return (path, stat.length, int(stat.mtime), 0)
    status = os.stat(path)
    return (os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ino)


def _compute(path: str) -> str:
    digest = hashlib.blake2b(digest_size=32)
    with epath.Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _flush(path: str) -> None:
    """Makes sure that a file or a folder survives a loss of power as it is now."""
    if "://" in path:
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot be asked to
            raise
    finally:
        os.close(number)
