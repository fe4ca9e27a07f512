"""Finds modules that gin or `--module_import` names and that are not there, without running any."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from hmoe.startup.gin_reading import Reading
from hmoe.startup.gin_statements import Import
from hmoe.startup.suggestions import nearest

# Packages that add modules while they are imported, or once had modules that gin files still name.
# T5's command passes over those.
_KNOWN_PACKAGES = (
    "gin",
    "hmoe",
    "mesh_tensorflow",
    "seqio",
    "t5",
    "tensorflow",
    "tensorflow_datasets",
)


def check(reading: Reading | None, modules: Sequence[str], *, skip_unknown: bool) -> None:
    """Raises ValueError for a module that cannot be imported.

    Args:
      reading: the configuration, if there is one.
      modules: the modules of `--module_import`.
      skip_unknown: whether gin passes over imports that fail.
    """
    for module in modules:
        check_module(module, "--module_import")
    if reading is not None and not skip_unknown:
        for each in foreign(reading.imports):
            check_module(each.module, f"{each.place}: import")


def check_module(module: str, shown: str) -> None:
    """Raises ValueError if a module is not there or is not Python.

    Args:
      module: its name.
      shown: how messages name the place that asks for it.
    """
    if "/" in module or module.endswith(".py"):
        name = os.path.splitext(os.path.basename(module))[0]
        folder = os.path.dirname(module) or "."
        raise ValueError(
            f"{shown} {module!r} is a path; give the name of the module, {name!r}, and its folder "
            f"in the environment: PYTHONPATH={folder} hmoe ..."
        )
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{shown} {module!r} is not the name of a Python module, such as my_tasks")
    if _is_missing(module):
        raise ValueError(
            f"{shown} {module!r}: there is no such module among the installed packages and "
            "in the folders of PYTHONPATH; for a module in this folder: PYTHONPATH=. hmoe ..."
            f"{nearest(module, list(_beside()))}"
        )
    found = _source(_find(module))
    if found is not None:
        path, source = found
        try:
            ast.parse(source)
        except (SyntaxError, ValueError) as error:
            where = f"{path}:{error.lineno}" if isinstance(error, SyntaxError) else path
            raise ValueError(
                f"{shown} {module!r} is not Python: {where}: {error.args[0]}"
            ) from None


def foreign(imports: Iterable[Import]) -> list[Import]:
    """Returns the imports of modules that belong neither to hmoe nor to T5."""
    return [each for each in imports if not is_known(each.module)]


def is_known(module: str) -> bool:
    """Returns whether a module belongs to hmoe or to T5, so that what it does is known."""
    return module.split(".")[0] in _KNOWN_PACKAGES


def sources(modules: Iterable[str]) -> Iterator[str]:
    """Yields the text of modules, and of a user's own modules that these import."""
    waiting, seen = list(modules), set[str]()
    named = set(waiting)
    while waiting:
        module = waiting.pop()
        if module in seen or is_known(module):
            continue
        seen.add(module)
        spec = _find(module)
        found = _source(spec)
        if found is None or (module not in named and "site-packages" in found[0]):
            continue
        yield found[1]
        is_package = spec is not None and spec.submodule_search_locations is not None
        waiting += _imported(found[1], module if is_package else module.rpartition(".")[0])


def _imported(source: str, package: str) -> Iterator[str]:
    """Yields what may be the names of modules that a text of Python in a package imports."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = [*(parents if node.level else []), *([node.module] if node.module else [])]
            names = [".".join([*start, *rest]) for rest in [[], *([n.name] for n in node.names)]]
        else:
            continue
        yield from (each for each in names if each.split(".")[0] not in sys.stdlib_module_names)


def _find(module: str) -> importlib.machinery.ModuleSpec | None:
    """Finds a module without importing the packages that it is in."""
    first, *others = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
        for part in others:
            if spec is None or spec.submodule_search_locations is None:
                return None
            folders = list(spec.submodule_search_locations)
            spec = importlib.machinery.PathFinder.find_spec(f"{spec.name}.{part}", folders)
    except (ImportError, ValueError):
        return None
    return spec


def _is_missing(module: str) -> bool:
    """Returns whether a module is surely not there."""
    first = module.split(".")[0]
    package = _find(first)
    # An installed package may make modules while it is imported.
    is_installed = package is not None and "site-packages" in (package.origin or "")
    return _find(module) is None and not is_installed and first not in _KNOWN_PACKAGES


def _source(spec: importlib.machinery.ModuleSpec | None) -> tuple[str, str] | None:
    """Returns the path and the text of a module that has a file."""
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    try:
        with open(spec.origin, encoding="utf-8", errors="replace") as file:
            return spec.origin, file.read()
    except OSError:
        return None


def _beside() -> Iterator[str]:
    """Yields the names of modules in this folder and those of PYTHONPATH."""
    folders = {os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)} - {""}
    for folder in sorted(folders & {os.getcwd(), *sys.path}):
        if os.path.isdir(folder):
            yield from (name[:-3] for name in os.listdir(folder) if name.endswith(".py"))
