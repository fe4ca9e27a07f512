"""Announces the default job where `hmoe train` begins it, unless another folder was meant."""

from __future__ import annotations

import difflib
import os
import re

from hmoe.startup.request import DEFAULT_MODEL_DIR, Request
from hmoe.startup.run_sources import DEFAULT_RUN, begins_default_job
from hmoe.startup.saved_run import CONFIGURATIONS

# Files that only a run leaves in its folder.
_FILES_OF_A_RUN = (*CONFIGURATIONS, "checkpoint")
_CHECKPOINT = "model.ckpt-"
# How alike names must be (0 to 1) for one to be the other, mistyped.
_ALIKE = 0.8


def announcement(request: Request) -> str | None:
    """Returns the line that announces the default job, or None if the request is another.

    Raises:
      ValueError: the folder does not exist, and one beside it with nearly its name holds a run.
    """
    folder = request.model_dir
    if not begins_default_job(request):
        return None
    is_new = not os.path.lexists(folder)
    if is_new and folder != DEFAULT_MODEL_DIR:
        _check_not_mistyped(folder)
    return f"Beginning the default job ({DEFAULT_RUN}) in {folder}{', a new folder' * is_new}"


def holds_run(folder: str) -> bool:
    """Returns whether a folder of this machine has a file that only a run leaves."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return any(name in _FILES_OF_A_RUN or name.startswith(_CHECKPOINT) for name in names)


def similar_run(folder: str) -> str | None:
    """Returns a folder with a run whose name may be the one that was meant, or None."""
    where, name = os.path.split(os.path.normpath(folder))
    try:
        names = os.listdir(where or os.curdir)
    except OSError:
        return None
    for match in difflib.get_close_matches(name, names, n=3, cutoff=_ALIKE):
        if not _are_variants(name, match) and holds_run(os.path.join(where, match)):
            return os.path.join(where, match)
    return None


def _check_not_mistyped(folder: str) -> None:
    meant = similar_run(folder)
    if meant:
        raise ValueError(
            f"model_dir {folder!r} does not exist, but {meant!r} beside it holds a run; did you "
            "mean that? To begin the default job in a folder of this name, make the folder first"
        )


def _are_variants(name: str, other: str) -> bool:
    """Returns whether names differ as those of a series do: in numbers, or at their end."""

    def stem(text: str) -> str:
        return re.sub(r"\d+|.$", "", text)

    return stem(name) == stem(other) or name.startswith(other) or other.startswith(name)
