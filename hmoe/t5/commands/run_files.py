"""Saves what a training run was started with, so that later commands need no gin files again."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import gin
from etils import epath

from hmoe.startup.request import Request, frozen
from hmoe.storage import atomic_write
from hmoe.t5.commands import bindings

# The whole configuration, which we write; and the part of it that training used, as T5 writes it.
CONFIGURATIONS = ("config.gin", "operative_config.gin")
FLAGS_FILE = "run.json"
# The copy of the vocabulary that a model of the user's own data was trained with.
VOCABULARY_FILE = "vocabulary.model"

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
)
# Of these, the ones that name files on this machine.
PATHS = ("data", "validation_data", "vocabulary")
# The key under which the flags' file has a copy of the configuration, as a list of lines.
_COPY = "config"


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
      configuration: path of a gin file.
      flags: the flags in `KEPT_FLAGS` that training was given, by name.
      trained_with: text of the configuration that training went on with last, which the file is
        unless it was edited since.
      is_whole: whether it has all bindings of training, and not only those that were used.
      notes: lines for the user about what was found.
    """

    configuration: str
    flags: dict[str, Any]
    trained_with: str = ""
    is_whole: bool = True
    notes: Sequence[str] = ()


def kept_flags(request: Request) -> dict[str, Any]:
    """Returns the flags in `KEPT_FLAGS` that a request gives, by name, with absolute paths."""
    kept = {name: getattr(request, name) for name in KEPT_FLAGS if getattr(request, name)}
    return {
        name: os.path.abspath(value) if name in PATHS and "://" not in value else value
        for name, value in kept.items()
    }


def write(model_dir: str, request: Request, configuration: str | None = None) -> None:
    """Writes the gin configuration, and the flags without which it cannot be read.

    Args:
      model_dir: the folder, which is made if it does not exist.
      request: the request that training was started with.
      configuration: text of the configuration; by default gin's present one.

    Raises:
      OSError: the files cannot be written.
    """
    epath.Path(model_dir).mkdir(parents=True, exist_ok=True)
    text = _ended(gin.config_str() if configuration is None else configuration)
    flags = {**kept_flags(request), _COPY: text.splitlines()}
    if request.vocabulary and "://" not in model_dir:
        flags["vocabulary"] = _keep_vocabulary(model_dir, request.vocabulary)
    atomic_write.write_text(os.path.join(model_dir, CONFIGURATIONS[0]), text)
    atomic_write.write_text(os.path.join(model_dir, FLAGS_FILE), json.dumps(flags, indent=1) + "\n")


def remove(model_dir: str) -> None:
    """Removes the files that describe a run, of which nothing else is there."""
    for name in (*CONFIGURATIONS, FLAGS_FILE):
        epath.Path(os.path.join(model_dir, name)).unlink(missing_ok=True)


def _ended(text: str) -> str:
    return f"{text.replace(END, '').rstrip()}\n\n{END}\n"


def _keep_vocabulary(model_dir: str, vocabulary: str) -> str:
    """Copies a vocabulary into a model's folder, and returns its name there.

    So the model can be used when its folder is moved, and whatever happens to the original.
    """
    own = os.path.join(model_dir, VOCABULARY_FILE)
    if not (os.path.exists(own) and os.path.samefile(own, vocabulary)):
        atomic_write.write_bytes(own, epath.Path(vocabulary).read_bytes())
    return VOCABULARY_FILE


def read(model_dir: str) -> SavedRun | None:
    """Reads what training left in a folder; None if it left nothing.

    Raises:
      DamagedFileError: a file is torn or otherwise damaged.
    """
    for name in CONFIGURATIONS:
        path = os.path.join(model_dir, name)
        if epath.Path(path).exists():
            flags = _flags(model_dir)
            copy = "".join(f"{line}\n" for line in flags.pop(_COPY, []))
            text = _configuration(path, has_end=bool(copy) and name == CONFIGURATIONS[0])
            return _saved_run(path, text, flags, copy)
    return None


def _saved_run(path: str, text: str, flags: dict[str, Any], copy: str) -> SavedRun:
    if os.path.basename(path) != CONFIGURATIONS[0]:
        note = f"{path} describes the run, since {CONFIGURATIONS[0]} is missing"
        return SavedRun(_absolute(path), flags, text, is_whole=False, notes=[note] if copy else ())
    is_edited = bool(copy) and text.splitlines() != copy.splitlines()
    notes = [f"{path} was edited since training wrote it, and is used as it is now"]
    return SavedRun(_absolute(path), flags, copy or text, notes=notes if is_edited else ())


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def fill_in(request: Request, saved: SavedRun) -> Request:
    """Returns the request with the saved flags in place of those that were not given."""
    missing = {
        name: frozen(saved.flags[name])
        for name in KEPT_FLAGS
        if name in saved.flags and not getattr(request, name)
    }
    return dataclasses.replace(request, **missing)


def _configuration(path: str, has_end: bool) -> str:
    """Reads a configuration, and checks that it is whole."""
    try:
        text = epath.Path(path).read_bytes().decode("utf-8")
        bindings.parse(text)
        if has_end and END not in text:
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
    except ValueError as error:
        raise DamagedFileError(
            f"{path} is damaged ({_reason(error)})",
            "it holds the flags that the model was trained with: delete it, and give those flags "
            "again (such as --data or --module_import), or restore it from a copy",
        ) from error
    if flags.get("vocabulary") == VOCABULARY_FILE:
        flags["vocabulary"] = os.path.abspath(os.path.join(model_dir, VOCABULARY_FILE))
    return flags


def _check_flags(flags: object) -> None:
    """Raises ValueError unless flags are of the types that `write` gives them."""
    if not isinstance(flags, dict):
        raise ValueError(f"it holds {type(flags).__name__} where flags by name are expected")
    for name, value in flags.items():
        if name not in (*KEPT_FLAGS, _COPY):
            continue
        listed = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if not (listed or isinstance(value, (str, bool))):
            raise ValueError(f"{name} is {value!r}")
