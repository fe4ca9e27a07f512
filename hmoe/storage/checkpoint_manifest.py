"""The manifest of a checkpoint: its files with their sizes and checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from etils import epath

from hmoe.storage import atomic_write
from hmoe.storage.local_files import is_elsewhere

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


# What tells one state of a file from another: its path, size, time, and place on the disk.
FileState: TypeAlias = tuple[str, int, int, int]

# Checksums of files that this process has read or written.
_checksums: dict[FileState, str] = {}

# Errors of the system by which a file is certainly not there; others may pass.
NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

# Errors of file systems, or rights, that do not let a folder be flushed. What is in it is written.
_NO_FLUSH = (
    errno.EINVAL,
    errno.EBADF,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EACCES,
    errno.EPERM,
)


class LaterFormatError(ValueError):
    """A manifest is of a later version of hmoe; its checkpoint may be whole."""


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
    if not is_elsewhere(folder):
        _flush_folder(folder or ".")


def read(folder: str, step: int) -> Manifest:
    """Reads the manifest of a checkpoint.

    Raises:
      ValueError: there is none, or it is damaged; the message names the file.
      LaterFormatError: a later version of hmoe has written it.
      OSError: the system cannot read it now, whatever its state.
    """
    name = name_of(step)
    try:
        with whatever_its_state(os.path.join(folder, name)):
            content = epath.Path(os.path.join(folder, name)).read_bytes()
        fields = json.loads(content)
    except (*NOT_THERE, ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged and cannot be read") from error
    _check_format(folder, name, fields)
    manifest = _manifest(fields)
    if manifest is None:
        raise ValueError(f"{name} is damaged and cannot be read")
    _check(manifest, step)
    return manifest


def _check_format(folder: str, name: str, fields: object) -> None:
    """Raises LaterFormatError for the format of a later version, which may be whole."""
    number = fields.get("format") if isinstance(fields, dict) else None
    if type(number) is int and number > FORMAT:
        raise LaterFormatError(
            f"{os.path.join(folder, name)} has format {number}, and this version of hmoe knows "
            f"formats up to {FORMAT}: a later version saved the checkpoint. Nothing was changed; "
            "use that version, or move the checkpoint's files out of the folder"
        )


@contextlib.contextmanager
def whatever_its_state(path: str) -> Iterator[None]:
    """Says of a file that the system cannot read now that nothing was changed for it.

    Rights, a store that does not answer, or too many open files say nothing of what is in the file.
    That it is not there, or is a folder, does (`NOT_THERE`).

    Raises:
      OSError: as the system raised it, with the file and the remedy.
    """
    try:
        yield
    except NOT_THERE:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno or errno.EIO,
            f"cannot be read now ({reason}); its checkpoint may be whole, so nothing was changed. "
            "Run the same command again when it can be read",
            path,
        ) from error


def _manifest(fields: object) -> Manifest | None:
    """Returns the manifest that JSON describes, or None if something lacks or has another type."""
    types = {"format": int, "step": int, "saved": float, "kept": bool, "files": list}
    if not _has_types(fields, types):
        return None
    assert isinstance(fields, dict)
    if fields["format"] != FORMAT:
        return None
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
    """Returns what is wrong with a checkpoint that has a manifest; None if it is whole.

    Raises:
      LaterFormatError: a later version of hmoe has saved it.
      OSError: the system cannot read a file now, whatever its state.
    """
    try:
        manifest = read(folder, step)
    except LaterFormatError:
        raise
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
        with whatever_its_state(path):
            size = epath.Path(path).stat().length
            if size != record.size:
                return (
                    f"{record.name} has {size:,} bytes, but had {record.size:,} when it was saved"
                )
            if checksum(path) != record.blake2b:
                return f"{record.name} is damaged: its checksum is not that of when it was saved"
    except NOT_THERE:
        return f"{record.name} is missing"
    return None


def _record(folder: str, name: str) -> FileRecord:
    path = os.path.join(folder, name)
    return FileRecord(name, epath.Path(path).stat().length, checksum(path))


def checksum(path: str) -> str:
    """Returns the checksum of a file, which is read only once by a process if it stays as it is.

    Raises:
      OSError: the file cannot be read.
    """
    state = state_of(path)
    if state not in _checksums:
        _checksums[state] = _compute(path)
    return _checksums[state]


def state_of(path: str) -> FileState:
    """Returns what changes when a file is written: its size, its time, its place on the disk."""
    if is_elsewhere(path):
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
    """Makes sure that a file survives a loss of power as it is now."""
    if is_elsewhere(path):
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot be asked to
            raise
    finally:
        os.close(number)


def _flush_folder(path: str) -> None:
    """Makes sure, where that can be asked for, that the names in a folder survive a loss of power.

    Many file systems (of networks, for one) flush no folders; that is no fault of a checkpoint.
    """
    try:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
