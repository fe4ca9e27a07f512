"""Full disks, in one sentence."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from hmoe.storage import disk_full

# The module of errors of TensorFlow, which need not be imported for this.
ResourceExhaustedError = type(
    "ResourceExhaustedError",
    (Exception,),
    {"__module__": "tensorflow.python.framework.errors_impl"},
)


def sentence(path: object, folder: object) -> str:
    return (
        rf"no space left to write {re.escape(str(path))} \([\d.]+ (bytes|[kMGT]B) free on the "
        rf"disk of {re.escape(str(folder))}\); make room, then run the same command again"
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_an_error_of_the_system(tmp_path: Path, number: int) -> None:
    error = OSError(number, "No space left on device", str(tmp_path / "new" / "file"))
    said = disk_full.message(error, "elsewhere")
    assert said is not None
    assert re.fullmatch(sentence(tmp_path / "new" / "file", tmp_path), said)


def test_an_error_without_a_file_that_another_came_from(tmp_path: Path) -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("the summary writer failed") from error
    except RuntimeError as error:
        said = disk_full.message(error, str(tmp_path))
    assert said is not None
    assert re.fullmatch(sentence(tmp_path, tmp_path), said)


def test_an_error_of_tensorflow(tmp_path: Path) -> None:
    path = f"{tmp_path}/model.ckpt-4_temp/part-00000-of-00001.data-00000-of-00001"
    error = ResourceExhaustedError(
        f"Graph execution error:\n\nNode: 'save/SaveV2'\n{path}; No space left on device\n\t [[x]]"
    )
    said = disk_full.message(error, "elsewhere")
    assert said is not None
    assert re.fullmatch(sentence(f"{tmp_path}/model.ckpt-4", tmp_path), said)


def test_a_file_that_the_error_does_not_name(tmp_path: Path) -> None:
    """Writing to a full device, where the system names no file."""
    with pytest.raises(OSError, match="No space") as raised, disk_full.naming("/dev/full"):
        Path("/dev/full").write_text("x")
    said = disk_full.message(raised.value, str(tmp_path))
    assert said is not None
    assert re.fullmatch(sentence("/dev/full", "/dev"), said)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("No space left on device"),
        OSError(errno.EACCES, "Permission denied"),
        ResourceExhaustedError("OOM when allocating tensor"),
    ],
)
def test_other_errors(error: Exception) -> None:
    assert disk_full.message(error, ".") is None
