"""Modules are found without being run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.startup.gin_checks import imports


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checked_package").mkdir()
    (tmp_path / "checked_package" / "__init__.py").write_text("raise ValueError\n")
    (tmp_path / "checked_package" / "tasks.py").write_text("raise ValueError\n")
    (tmp_path / "checked_package" / "torn.py").write_text("x = (\n\ndef f():\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_modules_are_not_run() -> None:
    imports.check_module("checked_package.tasks", "--module_import")
    imports.check_module("t5.data.mixtures", "--module_import")


def test_a_module_that_is_not_python() -> None:
    with pytest.raises(ValueError) as error:
        imports.check_module("checked_package.torn", "--module_import")
    torn = Path.cwd() / "checked_package" / "torn.py"
    assert str(error.value).startswith(
        f"--module_import 'checked_package.torn' is not Python: {torn}:1: "
    )


def test_a_part_that_is_missing() -> None:
    with pytest.raises(ValueError) as error:
        imports.check_module("checked_package.task", "a.gin:1: import")
    assert str(error.value) == (
        "a.gin:1: import 'checked_package.task': there is no such module among the installed "
        "packages and in the folders of PYTHONPATH; for a module in this folder: PYTHONPATH=. hmoe "
        "..."
    )


def test_packages_that_make_modules_while_they_are_imported_are_left_alone() -> None:
    imports.check_module("tensorflow.keras.layers", "--module_import")
    imports.check_module("numpy.no_such_module", "--module_import")
    # Configurations of older releases of T5 name modules that it no longer has.
    imports.check_module("t5.data.sentencepiece_vocabulary", "a.gin:1: import")
