"""Saves what a training run was started with, so that later commands need no gin files again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from typing import Any, NamedTuple

import gin

from hmoe.compat.stack import tf
from hmoe.startup.atomic_write import UNFINISHED
from hmoe.startup.request import Request, frozen

# The whole configuration, which we write; and the part of it that training used, which T5 writes.
CONFIGURATIONS = ("config.gin", "operative_config.gin")
FLAGS_FILE = "run.json"
# The copy of the vocabulary that a model of the user's own data was trained with.
VOCABULARY_FILE = "vocabulary.model"

# Flags of training that a later command needs, by the names of the fields of `Request`.
KEPT_FLAGS = (
    "data",
    "validation_data",
    "vocabulary",
    "skip_bad_lines",
    "module_import",
    "gin_location_prefix",
    "t5_tfds_data_dir",
    "additional_task_cache_dirs",
    "skip_all_gin_unknowns",
    "additional_deprecated_gin_references",
)


class SavedRun(NamedTuple):
    """What a training run left in its folder.

    Attributes:
      configuration: path of a gin file.
      flags: the flags in `KEPT_FLAGS` that training was given, by name.
    """

    configuration: str
    flags: dict[str, Any]


def write(model_dir: str, request: Request) -> None:
    """Writes the gin configuration, and the flags without which it cannot be read."""
    tf.io.gfile.makedirs(model_dir)
    with tf.io.gfile.GFile(os.path.join(model_dir, CONFIGURATIONS[0]), "w") as file:
        file.write(gin.config_str())
    kept = {name: getattr(request, name) for name in KEPT_FLAGS if getattr(request, name)}
    for name in ("data", "validation_data", "vocabulary"):
        if name in kept:
            kept[name] = os.path.abspath(kept[name])
    if request.vocabulary and "://" not in model_dir:
        kept["vocabulary"] = _keep_vocabulary(model_dir, request.vocabulary)
    with tf.io.gfile.GFile(os.path.join(model_dir, FLAGS_FILE), "w") as file:
        file.write(json.dumps(kept, indent=1) + "\n")


def _keep_vocabulary(model_dir: str, vocabulary: str) -> str:
    """Copies a vocabulary into a model's folder, and returns its name there.

    So the model can be used when its folder is moved, and whatever happens to the original.
    """
    own = os.path.join(model_dir, VOCABULARY_FILE)
    if not (os.path.exists(own) and os.path.samefile(own, vocabulary)):
        shutil.copyfile(vocabulary, own + UNFINISHED)
        os.replace(own + UNFINISHED, own)
    return VOCABULARY_FILE


def read(model_dir: str) -> SavedRun | None:
    """Reads what training left in a folder; None if it left nothing."""
    for name in CONFIGURATIONS:
        path = os.path.join(model_dir, name)
        if tf.io.gfile.exists(path):
            return SavedRun(os.path.abspath(path) if "://" not in path else path, _flags(model_dir))
    return None


def fill_in(request: Request, saved: SavedRun) -> Request:
    """Returns the request with the saved flags in place of those that were not given."""
    missing = {
        name: frozen(saved.flags[name])
        for name in KEPT_FLAGS
        if name in saved.flags and not getattr(request, name)
    }
    return dataclasses.replace(request, **missing)


def _flags(model_dir: str) -> dict[str, Any]:
    path = os.path.join(model_dir, FLAGS_FILE)
    if not tf.io.gfile.exists(path):
        return {}
    with tf.io.gfile.GFile(path) as file:
        flags = json.loads(file.read())
    if flags.get("vocabulary") == VOCABULARY_FILE:
        flags["vocabulary"] = os.path.abspath(os.path.join(model_dir, VOCABULARY_FILE))
    return flags
