"""Saves what a training run was started with, so that later commands need no gin files again."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import gin
from etils import epath

from hmoe.startup.request import Request
from hmoe.startup.saved_run import (
    CONFIGURATIONS,
    COPY,
    END,
    FLAGS_FILE,
    KEPT_FLAGS,
    PATHS,
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
    """

    configuration: str
    flags: dict[str, Any]
    vocabulary: bytes | None

    def write(self, model_dir: str) -> None:
        """Writes the files, each of them whole or not at all.

        Args:
          model_dir: the folder, which is made if it does not exist.

        Raises:
          OSError: the files cannot be written.
        """
        epath.Path(model_dir).mkdir(parents=True, exist_ok=True)
        flags = {**self.flags, COPY: self.configuration.splitlines()}
        if self.vocabulary is not None and not is_elsewhere(model_dir):
            # So the model can be used when its folder is moved, and whatever happens to the file
            # that was given.
            atomic_write.write_bytes(os.path.join(model_dir, VOCABULARY_FILE), self.vocabulary)
            flags["vocabulary"] = VOCABULARY_FILE
        atomic_write.write_text(os.path.join(model_dir, CONFIGURATIONS[0]), self.configuration)
        atomic_write.write_text(
            os.path.join(model_dir, FLAGS_FILE), json.dumps(flags, indent=1) + "\n"
        )


def describe(request: Request, configuration: str | None = None) -> RunFiles:
    """Returns the files that describe a run.

    Args:
      request: the request that training was started with.
      configuration: text of the configuration; by default gin's present one.

    Raises:
      OSError: the vocabulary cannot be read.
    """
    text = gin.config_str() if configuration is None else configuration
    vocabulary = epath.Path(request.vocabulary).read_bytes() if request.vocabulary else None
    return RunFiles(f"{text.replace(END, '').rstrip()}\n\n{END}\n", kept_flags(request), vocabulary)


def write(model_dir: str, request: Request, configuration: str | None = None) -> None:
    """Writes the files that describe a run; see `describe` and `RunFiles.write`."""
    describe(request, configuration).write(model_dir)


def kept_flags(request: Request) -> dict[str, Any]:
    """Returns the flags in `KEPT_FLAGS` that a request gives, by name, with absolute paths."""
    kept = {name: getattr(request, name) for name in KEPT_FLAGS if getattr(request, name)}
    return {
        name: os.path.abspath(value) if name in PATHS and not is_elsewhere(value) else value
        for name, value in kept.items()
    }
