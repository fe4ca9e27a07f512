"""Checks that a folder imports only from floors below it, and that no imports form a circle."""

from __future__ import annotations

import ast
import graphlib
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# What only hmoe.t5 may import.
T5 = ("t5", "mesh_tensorflow.transformer")

Imports = dict[str, set[str]]


def broken_contracts(root: pathlib.Path) -> str:
    """Returns import-linter's report on the contracts of pyproject.toml, or "" if all are kept."""
    linter = pathlib.Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run(
        [linter, "--no-cache", "--no-logo"], cwd=root, capture_output=True, text=True, check=False
    )
    return ended.stdout + ended.stderr if ended.returncode else ""


def imports_of(root: pathlib.Path) -> Imports:
    """Returns what each module of hmoe imports: at its top, in functions, and for types alone."""
    files = {_module(root, file): file for file in (root / "hmoe").rglob("*.py")}
    return {
        module: set(_imported(ast.parse(file.read_text(encoding="utf-8")), files))
        for module, file in files.items()
    }


def _module(root: pathlib.Path, file: pathlib.Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.Module, modules: dict[str, pathlib.Path]) -> Iterator[str]:
    """Yields the imported modules of hmoe, and the full imported names of other packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for each in node.names:
                name = f"{node.module}.{each.name}"
                is_ours = node.module.split(".")[0] == "hmoe"
                yield node.module if is_ours and name not in modules else name


def circle(imports: Imports) -> list[str]:
    """Returns modules that each import the one before them, beginning and ending alike; or []."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def importers_of_t5(imports: Imports) -> list[str]:
    """Returns the imports of T5 outside of hmoe.t5, as "module imports name"."""
    return [
        f"{module} imports {name}"
        for module, names in sorted(imports.items())
        for name in sorted(names)
        if module.split(".")[:2] != ["hmoe", "t5"]
        and any(f"{name}.".startswith(f"{each}.") for each in T5)
    ]


def test_imports_keep_the_contracts():
    report = broken_contracts(ROOT)
    assert not report, report


def test_no_circle_among_modules():
    assert circle(imports_of(ROOT)) == []


def test_only_t5_imports_t5():
    assert importers_of_t5(imports_of(ROOT)) == []


@pytest.fixture
def copy(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the package, to spoil."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hmoe", tmp_path / "hmoe", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def add(root: pathlib.Path, file: str, text: str) -> None:
    path = root / "hmoe" / file
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as end:
        end.write(text)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        pytest.param(
            "mesh/layout.py",
            "import hmoe.experts.feed_forward\n",
            ["Floors BROKEN", "hmoe.mesh is not allowed to import hmoe.experts"],
            id="higher_floor",
        ),
        pytest.param(
            "startup/console.py",
            "def later():\n    from hmoe.cli import launch\n    return launch\n",
            ["Floors BROKEN", "hmoe.startup is not allowed to import hmoe.cli"],
            id="in_a_function",
        ),
        pytest.param(
            "routing/gate.py",
            "import typing\nif typing.TYPE_CHECKING:\n    from hmoe.layer.level import Level\n",
            ["Floors BROKEN", "hmoe.routing is not allowed to import hmoe.layer"],
            id="for_types",
        ),
        pytest.param(
            "t5/data/tasks.py",
            "import hmoe.t5.graphs.training\n",
            ["Rooms of t5 BROKEN", "hmoe.t5.data is not allowed to import hmoe.t5.graphs"],
            id="higher_room",
        ),
        pytest.param(
            "layer/groups.py",
            "import hmoe.lowering.lower\n",
            ["The core imports no lowering BROKEN", "hmoe.layer is not allowed to import hmoe.low"],
            id="core_and_lowering",
        ),
        pytest.param(
            "routing/gate.py",
            "import hmoe.routing.router\n",
            ["No circles BROKEN", "No cycles are allowed in hmoe.routing."],
            id="circle",
        ),
        pytest.param(
            "cellar/__init__.py", '"""New."""\n', ["Floors BROKEN", "hmoe.cellar"], id="new_folder"
        ),
    ],
)
def test_a_broken_contract_is_found(copy, file, text, said):
    add(copy, file, text)
    report = broken_contracts(copy)
    assert all(each in report for each in said), report


def test_a_circle_of_a_package_and_its_own_module_is_found(copy):
    add(copy, "t5/data/tasks.py", "import hmoe.t5\n")
    found = circle(imports_of(copy))
    assert found[0] == found[-1]
    assert {"hmoe.t5", "hmoe.t5.data.tasks"} <= set(found)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("from mesh_tensorflow.transformer import moe\n", "mesh_tensorflow.transformer.moe"),
        ("from mesh_tensorflow import transformer\n", "mesh_tensorflow.transformer"),
        ("import t5.models\n", "t5.models"),
    ],
)
def test_an_import_of_t5_is_found(copy, text, name):
    add(copy, "layer/moe.py", text)
    assert importers_of_t5(imports_of(copy)) == [f"hmoe.layer.moe imports {name}"]
