"""The Python modules that the configuration of a trained model imports, and so runs."""

from __future__ import annotations

import re

from hmoe.startup import saved_run
from hmoe.startup.request import Request
from hmoe.storage.local_files import is_elsewhere

# Packages that come with hmoe; what they do is known.
_KNOWN = frozenset(
    {"hmoe", "t5", "mesh_tensorflow", "seqio", "gin", "tensorflow", "tensorflow_datasets"}
)
_IMPORT = re.compile(r"^\s*(?:import|from)\s+([\w.]+)", re.MULTILINE)


def announcement(request: Request) -> str | None:
    """Returns a line that names the foreign modules of a saved model; None if there is none.

    Only a folder on this machine is read, and only if its saved configuration will be used.
    """
    if request.gin_file or request.data or is_elsewhere(request.model_dir):
        return None
    foreign = _foreign_modules(request.model_dir)
    if not foreign:
        return None
    return f"The configuration in {request.model_dir} imports {', '.join(foreign)}"


def _foreign_modules(folder: str) -> list[str]:
    """Returns the modules, in order, that `run.json` and the saved gin configuration name."""
    try:
        saved = saved_run.read(folder)
    except ValueError:
        return []  # whoever reads the files for their sake says what is wrong with them
    if saved is None:
        return []
    named = list(saved.flags.get("module_import") or ())
    for text in (saved.text, *map(_read, saved.files)):
        named += _IMPORT.findall(text)
    return sorted({each for each in named if each.split(".")[0] not in _KNOWN})


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
