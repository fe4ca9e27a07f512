"""What a training run left in its folder, so that later commands need no gin files again."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from hmoe.startup import bindings
from hmoe.startup.request import Request, frozen
from hmoe.storage.local_files import is_elsewhere

# The whole configuration, which we write; and the part of it that training used, as T5 writes it.
CONFIGURATIONS = ("config.gin", "operative_config.gin")
FLAGS_FILE = "run.json"
# The copy of the vocabulary that a model of the user's own data was trained with.
VOCABULARY_FILE = "vocabulary.model"

# The metrics of training, a line for every few steps.
METRICS_FILE = "metrics.jsonl"
# The alarms about experts, a line for each.
ALARMS_FILE = "alarms.jsonl"

# The last line of a configuration that is whole.
END = "# The end of the configuration: without this line the file counts as damaged."

# Flags of training that a later command needs, by the names of the fields of `Request`.
KEPT_FLAGS = (
    "data",
    "validation_data",
    "vocabulary",
    "data_format",
    "skip_bad_lines",
    "module_import",
    "gin_location_prefix",
    "t5_tfds_data_dir",
    "additional_task_cache_dirs",
    "skip_all_gin_unknowns",
    "additional_deprecated_gin_references",
    "replay",
)
# Of these, the ones that name files on this machine.
PATHS = ("data", "validation_data", "vocabulary", "replay")
# Those that only a resume takes up again.
_OF_TRAINING = ("replay",)
# The key under which the flags' file has a copy of the configuration, as a list of lines.
COPY = "config"
# The key under which it has the versions that trained the run: a list of objects, the oldest first,
# each with `FROM_STEP`, the step that was done when these began, and the version of each package.
VERSIONS = "versions"
FROM_STEP = "from_step"


class DamagedFileError(ValueError):
    """A file that describes a run is damaged.

    Attributes:
      problem: the file, and what is wrong with it.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem


class SavedRun(NamedTuple):
    """What a training run left in its folder.

    Attributes:
      configuration: path of a gin file; None if only the copy of it is whole.
      flags: the flags in `KEPT_FLAGS` that training was given, by name.
      trained_with: text of the configuration that training went on with last, which the file is
        unless it was edited since.
      is_whole: whether it has all bindings of training, and not only those that were used.
      notes: lines for the user about what was found.
    """

    configuration: str | None
    flags: dict[str, Any]
    trained_with: str = ""
    is_whole: bool = True
    notes: Sequence[str] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The gin files to read."""
        return () if self.configuration is None else (self.configuration,)

    @property
    def text(self) -> str:
        """Text to read in place of a file, or ""."""
        return self.trained_with if self.configuration is None else ""


def read(model_dir: str) -> SavedRun | None:
    """Reads what training left in a folder; None if it left no configuration.

    Where `config.gin` is missing or damaged, the copy that `run.json` has of it takes its place.

    Raises:
      DamagedFileError: a file is torn or otherwise damaged, and there is no copy of it.
    """
    flags = _flags(model_dir)
    copy = _whole_copy(flags.pop(COPY, []))
    flags.pop(VERSIONS, None)
    whole, used = (os.path.join(model_dir, name) for name in CONFIGURATIONS)
    if epath.Path(whole).exists():
        return _of_file(whole, flags, copy)
    if copy:
        return _of_copy(f"{whole} is missing", flags, copy)
    if epath.Path(used).exists():
        return SavedRun(_absolute(used), flags, _configuration(used), is_whole=False)
    return None


def versions(model_dir: str) -> list[dict[str, Any]]:
    """Returns what `VERSIONS` says; nothing if training has not written it, or it is damaged."""
    path = epath.Path(os.path.join(model_dir, FLAGS_FILE))
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))[VERSIONS]
        return [dict(each) for each in found if type(each[FROM_STEP]) is int]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def fill_in(request: Request, saved: SavedRun) -> Request:
    """Returns the request with the saved flags in place of those that were not given."""
    missing = {
        name: frozen(saved.flags[name])
        for name in KEPT_FLAGS
        if name in saved.flags
        and not getattr(request, name)
        and (request.command == "train" or name not in _OF_TRAINING)
    }
    return dataclasses.replace(request, **missing)


def _of_file(path: str, flags: dict[str, Any], copy: str) -> SavedRun:
    try:
        text = _configuration(path, needs_end=bool(copy))
    except DamagedFileError as error:
        if not copy:
            raise
        return _of_copy(error.problem, flags, copy)
    is_edited = bool(copy) and text.splitlines() != copy.splitlines()
    notes = [f"{path} was edited since training wrote it, and is used as it is now"]
    return SavedRun(_absolute(path), flags, copy or text, notes=notes if is_edited else ())


def _of_copy(problem: str, flags: dict[str, Any], copy: str) -> SavedRun:
    note = f"{problem}: the copy of it in {FLAGS_FILE} is used instead"
    return SavedRun(None, flags, copy, notes=[note])


def _whole_copy(lines: Sequence[str]) -> str:
    """Returns the text of a copy; "" if there is none that is whole."""
    text = "".join(f"{line}\n" for line in lines)
    try:
        bindings.parse(text)
    except (ValueError, SyntaxError):
        return ""
    return text if END in text else ""


def _absolute(path: str) -> str:
    return path if is_elsewhere(path) else os.path.abspath(path)


def _configuration(path: str, needs_end: bool = False) -> str:
    """Reads a configuration, and checks that it is whole."""
    try:
        text = epath.Path(path).read_bytes().decode("utf-8")
        bindings.parse(text)
        if needs_end and END not in text:
            raise ValueError("its end is missing")
    except (ValueError, SyntaxError) as error:
        raise DamagedFileError(f"{path} is damaged ({_reason(error)})", _remedy(path)) from error
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no UTF-8"
    if isinstance(error, SyntaxError):
        where = f"line {error.lineno}: " if error.lineno else ""
        return f"{where}{error.msg.strip().splitlines()[0]}"
    return str(error)


def _remedy(path: str) -> str:
    folder, name = os.path.split(path)
    other = os.path.join(folder, CONFIGURATIONS[1])
    remedy = "it describes the model: name its gin files with --gin_file, or restore it from a copy"
    if name == CONFIGURATIONS[0] and epath.Path(other).exists():
        remedy += f"; or delete it, for {other} to take its place"
    return remedy


def _flags(model_dir: str) -> dict[str, Any]:
    path = os.path.join(model_dir, FLAGS_FILE)
    if not epath.Path(path).exists():
        return {}
    try:
        flags = json.loads(epath.Path(path).read_bytes().decode("utf-8"))
        _check_flags(flags)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} is damaged ({_reason(error)})",
            "it holds the flags that the model was trained with: delete it, and give those flags "
            "again (such as --data or --module_import), or restore it from a copy",
        ) from error
    if flags.get("vocabulary") == VOCABULARY_FILE:
        flags["vocabulary"] = os.path.abspath(os.path.join(model_dir, VOCABULARY_FILE))
    return flags


def _check_flags(flags: object) -> None:
    """Raises ValueError unless flags are of the types that training gives them."""
    if not isinstance(flags, dict):
        raise ValueError(f"it holds {type(flags).__name__} where flags by name are expected")
    for name, value in flags.items():
        if name not in (*KEPT_FLAGS, COPY):
            continue
        listed = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if not (listed or isinstance(value, (str, bool))) or (name == COPY and not listed):
            raise ValueError(f"{name} is {value!r}")
