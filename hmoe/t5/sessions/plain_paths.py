"""Paths by which TensorFlow can read checkpoints in folders with any name."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import tempfile

from hmoe.storage.local_files import is_elsewhere


@functools.cache
def _alias(folder: str) -> str:
    """Makes a link with a plain name to a folder, which lasts as long as the process."""
    made = tempfile.mkdtemp(prefix="hmoe-")
    link = os.path.join(made, "model_dir")
    os.symlink(folder, link)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return link


def readable(path: str) -> str:
    """Returns a path of the same checkpoint by which TensorFlow can read it.

    TensorFlow takes a path to read as a pattern, in which `[`, `*` and `?` do not mean themselves.
    """
    if is_elsewhere(path) or not re.search(r"[\[*?\\]", path):
        return path
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(_alias(folder), name)
