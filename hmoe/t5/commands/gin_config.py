"""Reads gin files as T5's command does, with errors that say what to do, and queries gin."""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import gin
import mesh_tensorflow.transformer
from gin import config as gin_internals
from gin import resource_reader
from t5.models import mesh_transformer

from hmoe.compat import patches
from hmoe.compat.stack import tf
from hmoe.startup import gin_files
from hmoe.startup.gin_checks import imports
from hmoe.startup.suggestions import similar


def read(
    files: Sequence[str],
    bindings: Sequence[str],
    prefixes: Sequence[str] = (),
    skip_unknown: bool | Sequence[str] = False,
    text: str = "",
) -> None:
    """Reads Mesh TensorFlow's defaults, then gin files and text, then single bindings.

    The configuration is not locked yet; see `finish`.

    Args:
      files: gin files; each is looked for in the current folder, then in
        `gin_files.search_folders`.
      bindings: lines of gin, such as `utils.run.train_steps = 100`.
      prefixes: more folders to look in.
      skip_unknown: whether unknown names are ignored, or the names to ignore. T5's own deprecated
        names are always ignored.
      text: what is read in place of a file.

    Raises:
      ValueError: a file is missing, or gin does not know a name or argument in it.
    """
    _ignore_plain_folders()
    folders = gin_files.search_folders(prefixes)
    for folder in folders:
        gin.add_config_file_search_path(folder)
    for path in files:
        if gin_files.in_package(path) is None:
            gin_files.check_exists(path, ["", *folders], tf.io.gfile.exists)
    if skip_unknown is not True:
        skip_unknown = [*mesh_transformer.DEPRECATED_GIN_REFERENCES, *(skip_unknown or ())]
    package = os.path.dirname(mesh_tensorflow.transformer.__file__)
    for path in [os.path.join(package, "gin", "defaults.gin"), *files]:
        with _explained(""):
            gin.parse_config_file(path, skip_unknown=skip_unknown)
    with _explained(""):
        gin.parse_config(text, skip_unknown=skip_unknown)
    for binding in bindings:
        with _explained(f"--gin_param {binding!r}: "):
            gin.parse_config(binding, skip_unknown=skip_unknown)


def finish() -> None:
    """Binds the vocabulary as T5's command does, and locks the configuration."""
    gin.bind_parameter("run.vocabulary", mesh_transformer.get_vocabulary())
    gin.finalize()


def is_constant(name: str) -> bool:
    """Returns whether a module defines a constant that gin files may use like a macro."""
    reference = gin_internals.ParserDelegate().macro(name)
    return reference.selector.endswith("gin.constant")


def bound(name: str, default: Any = None) -> Any:
    """Returns what gin binds to an argument such as `run.mode`; references stay references."""
    try:
        return gin.query_parameter(name)
    except ValueError:
        return default


def value(name: str, default: Any = None) -> Any:
    """Returns the value that gin passes for an argument such as `run.mode`.

    That is what is bound to it, with the values of macros, constants and calls in their places, as
    in T5's `decode_from_file.input_filename = %input_filename`.
    """
    # A copy of a reference is what it refers to; gin itself evaluates bindings so.
    return copy.deepcopy(bound(name, default))


def _ignore_plain_folders() -> None:
    """Lets gin find files although a plain folder on Python's path has the name of theirs.

    Gin asks whether `runs/default.gin` belongs to a package `runs`, and fails on a folder without
    `__init__.py`, such as the one that the default job writes to.
    """
    fails = resource_reader.system_path_file_exists
    patches.GIN_FILE_READERS.replace(
        [
            (reader, _is_in_package if exists is fails else exists)
            for reader, exists in gin_internals._FILE_READERS
        ]
    )


def _is_in_package(path: str) -> bool:
    try:
        return resource_reader.system_path_file_exists(path)
    except TypeError:  # a package without a file of its own
        return False


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, SyntaxError) as error:
        raise ValueError(where + explain(str(error))) from error


def explain(text: str) -> str:
    """Adds similar names to gin's message about an unknown name or argument."""
    unknown = re.search(r"[Nn]o configurable matching '([^']+)'", text)
    if unknown:
        return f"{text.strip()}{similar(unknown.group(1), _all_configurables())}"
    argument = re.search(r"Configurable '([^']+)' doesn't have a parameter named '([^']+)'", text)
    if argument:
        names = _arguments(argument.group(1))
        known = f"\n  It has: {', '.join(names)}" if names else ""
        return f"{text.strip()}{similar(argument.group(2), names)}{known}"
    return text.strip()


def knows_own_code() -> bool:
    """Returns whether gin knows a class or function that belongs neither to hmoe nor to T5."""
    modules = (each.wrapped.__module__ for _, each in gin_internals._REGISTRY.items())
    return not all(map(imports.is_known, modules))


def _all_configurables() -> list[str]:
    selectors = list(gin_internals._REGISTRY._selector_map)
    short = [".".join(selector.split(".")[-2:]) for selector in selectors]
    return sorted({*short, *(selector.split(".")[-1] for selector in selectors)})


def _arguments(configurable: str) -> list[str]:
    try:
        wrapped = gin_internals._REGISTRY.get_match(configurable.split("/")[-1]).wrapped
    except (AttributeError, ValueError):
        return []
    function = wrapped.__init__ if inspect.isclass(wrapped) else wrapped
    return [name for name in inspect.signature(function).parameters if name != "self"]
