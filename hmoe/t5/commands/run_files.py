"""Saves what a training run was started with, so that later commands need no gin files again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gin
from etils import epath

from hmoe.compat.versions import installed_versions
from hmoe.startup.request import Request
from hmoe.startup.saved_run import (
    CONFIGURATIONS,
    COPY,
    END,
    FLAGS_FILE,
    FROM_STEP,
    KEPT_FLAGS,
    PATHS,
    VERSIONS,
    VOCABULARY_FILE,
)
from hmoe.storage import atomic_write
from hmoe.storage.local_files import is_elsewhere


class RunFiles(NamedTuple):
    """The contents of the files that describe a run.

    They are taken when the run starts, and are written hours later.

    Attributes:
      configuration: text of the whole gin configuration.
      flags: the flags without which it cannot be read, by name.
      vocabulary: the vocabulary of the user's own data, if it has one.
      versions: the versions that train the run; see `saved_run.VERSIONS`.
    """

    configuration: str
    flags: dict[str, Any]
    vocabulary: bytes | None
    versions: Sequence[Mapping[str, Any]] = ()

    def write(self, model_dir: str) -> None:
        """Writes the files, each of them whole or not at all.

        Args:
          model_dir: the folder, which is made if it does not exist.

        Raises:
          OSError: the files cannot be written.
        """
        epath.Path(model_dir).mkdir(parents=True, exist_ok=True)
        versions = {VERSIONS: list(self.versions)} if self.versions else {}
        flags = {**self.flags, **versions, COPY: self.configuration.splitlines()}
        if self.vocabulary is not None and not is_elsewhere(model_dir):
            # So the model can be used when its folder is moved, and whatever happens to the file
            # that was given.
            atomic_write.write_bytes(os.path.join(model_dir, VOCABULARY_FILE), self.vocabulary)
            flags["vocabulary"] = VOCABULARY_FILE
        atomic_write.write_text(os.path.join(model_dir, CONFIGURATIONS[0]), self.configuration)
        atomic_write.write_text(
            os.path.join(model_dir, FLAGS_FILE), json.dumps(flags, indent=1) + "\n"
        )


def describe(
    request: Request,
    configuration: str | None = None,
    versions: Sequence[Mapping[str, Any]] = (),
) -> RunFiles:
    """Returns the files that describe a run.

    Args:
      request: the request that training was started with.
      configuration: text of the configuration; by default gin's present one.
      versions: the versions that train the run, as `with_present_versions` returns them.

    Raises:
      OSError: the vocabulary cannot be read.
    """
    text = gin.config_str() if configuration is None else configuration
    vocabulary = epath.Path(request.vocabulary).read_bytes() if request.vocabulary else None
    text = f"{text.replace(END, '').rstrip()}\n\n{END}\n"
    return RunFiles(text, kept_flags(request), vocabulary, versions)


def with_present_versions(
    earlier: Sequence[Mapping[str, Any]], step: int
) -> list[Mapping[str, Any]]:
    """Returns the versions that train a run, of which the present ones go on from a step.

    Args:
      earlier: those that have trained it so far; see `saved_run.VERSIONS`.
      step: the step that is done.
    """
    kept = [each for each in earlier if each[FROM_STEP] < step]
    present = installed_versions()
    if kept and {**kept[-1], FROM_STEP: None} == {**present, FROM_STEP: None}:
        return kept
    return [*kept, {FROM_STEP: step, **present}]


def write(
    model_dir: str,
    request: Request,
    configuration: str | None = None,
    versions: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes the files that describe a run; see `describe` and `RunFiles.write`."""
    describe(request, configuration, versions).write(model_dir)


def kept_flags(request: Request) -> dict[str, Any]:
    """Returns the flags in `KEPT_FLAGS` that a request gives, by name, with absolute paths."""
    kept = {name: getattr(request, name) for name in KEPT_FLAGS if getattr(request, name)}
    return {
        name: os.path.abspath(value) if name in PATHS and not is_elsewhere(value) else value
        for name, value in kept.items()
    }
