"""setup.py: the version, the Pythons, the command, and what the package imports."""

from __future__ import annotations

import ast
import re
import sys

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import hmoe
from tests.install import project

# The distribution that brings each module, where the names differ.
DISTRIBUTIONS = {
    "absl": "absl-py",
    "gin": "gin-config",
    "vl_convert": "vl-convert-python",
    "grpc": "grpcio",
    "seqio": "seqio-nightly",
    "mesh_tensorflow": "mesh-tensorflow",
    "tensorflow_datasets": "tfds-nightly",
    "tensorflow_text": "tensorflow-text",
}


def test_version_is_that_of_the_package_and_in_the_changelog():
    assert project.setup_arguments()["version"] == hmoe.__version__
    changelog = (project.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {hmoe.__version__}" in changelog


def test_version_is_stated_once():
    pattern = rf'version\w*\s*=\s*"{re.escape(hmoe.__version__)}"'
    stated = [
        path.name
        for path in [
            *project.ROOT.glob("*.py"),
            *project.ROOT.glob("*.toml"),
            *(project.ROOT / "hmoe").rglob("*.py"),
        ]
        if re.search(pattern, path.read_text(encoding="utf-8"))
    ]
    assert stated == ["version.py"]


def test_command():
    assert project.setup_arguments()["entry_points"] == {
        "console_scripts": ["hmoe = hmoe.cli.main:main"]
    }


@pytest.mark.parametrize(
    ("python", "allowed"),
    [("3.9.23", False), ("3.10.0", True), ("3.13.9", True), ("3.14.0", False)],
)
def test_pythons(python, allowed):
    assert SpecifierSet(project.setup_arguments()["python_requires"]).contains(python) is allowed


@pytest.mark.parametrize(
    ("python", "version", "allowed"),
    [
        ("3.10", "2.15.1", True),
        ("3.10", "2.20.0", False),
        ("3.11", "2.15.1", True),
        ("3.11", "2.18.1", False),
        ("3.11", "2.21.0", True),
        ("3.11", "2.22.0", False),
    ],
)
def test_tensorflows(python, version, allowed):
    requirements = project.applying(
        [Requirement(text) for text in project.setup_arguments()["install_requires"]],
        project.environment(python),
    )
    assert requirements["tensorflow"].specifier.contains(version) is allowed


def test_extra_tpu_narrows_tensorflow_to_the_last_with_tpu_estimator():
    assert "tensorflow==2.15.1" in project.setup_arguments()["extras_require"]["tpu"]


def test_every_module_that_the_package_imports_is_required():
    imported = set()
    for path in (project.ROOT / "hmoe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    ours = {"hmoe"} | set(sys.stdlib_module_names)
    required = {Requirement(text).name for text in project.setup_arguments()["install_requires"]}
    missing = {DISTRIBUTIONS.get(name, name) for name in imported - ours} - required
    assert not missing, f"add to REQUIREMENTS in setup.py: {sorted(missing)}"


def test_packages_hold_each_folder_of_gin_and_no_tests():
    arguments = project.setup_arguments()
    folders = {
        "hmoe." + ".".join(path.parent.relative_to(project.ROOT).parts)
        for path in (project.ROOT / "gin").rglob("*.gin")
    }
    assert folders
    assert folders <= set(arguments["packages"])
    assert not [name for name in arguments["packages"] if name.split(".")[0] != "hmoe"]
    assert arguments["package_dir"]["hmoe.gin"] == "gin"
