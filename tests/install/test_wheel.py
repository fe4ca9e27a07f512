"""What a built wheel holds."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import hmoe
from tests.install import project

FILES = ["setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"]


def build(command, source: pathlib.Path, suffix: str) -> pathlib.Path:
    """Runs setuptools' build hook `command` in `source`; returns what it made."""
    out = source / "out"
    out.mkdir(exist_ok=True)
    code = f"from setuptools import build_meta; build_meta.{command}({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    [made] = out.glob(f"*{suffix}")
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
    """A copy of the sources, so that building leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("source") / "hmoe"
    folder.mkdir()
    for name in FILES:
        shutil.copy(project.ROOT / name, folder)
    without = shutil.ignore_patterns("__pycache__")
    for name in ("hmoe", "gin", "tests"):
        shutil.copytree(project.ROOT / name, folder / name, ignore=without)
    return folder


@pytest.fixture(scope="module", params=["checkout", "sdist"])
def wheel(request, source, tmp_path_factory) -> zipfile.ZipFile:
    """A wheel, built from the checkout or from the source distribution."""
    if request.param == "sdist":
        archive = build("build_sdist", source, ".tar.gz")
        unpacked = tmp_path_factory.mktemp("sdist")
        shutil.unpack_archive(str(archive), unpacked)
        source = unpacked / f"hmoe-{hmoe.__version__}"
    return zipfile.ZipFile(build("build_wheel", source, ".whl"))


def test_every_gin_file_is_inside(wheel):
    gin = project.ROOT / "gin"
    expected = {f"hmoe/gin/{path.relative_to(gin).as_posix()}" for path in gin.rglob("*.gin")}
    found = {name for name in wheel.namelist() if name.endswith(".gin")}
    assert expected
    assert found == expected
    for name in expected:
        assert wheel.read(name) == (gin / name[len("hmoe/gin/") :]).read_bytes()


def test_every_module_is_inside_and_nothing_of_the_tests(wheel):
    modules = {
        path.relative_to(project.ROOT).as_posix() for path in (project.ROOT / "hmoe").rglob("*.py")
    }
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name for name in names if name.endswith(".py")} == modules
    assert {name.split("/")[0] for name in names} == {"hmoe"}
    assert "hmoe/py.typed" in names


def test_it_names_the_command_the_licence_and_the_version(wheel):
    [info] = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert info == f"hmoe-{hmoe.__version__}.dist-info"
    assert "hmoe = hmoe.cli.main:main" in wheel.read(f"{info}/entry_points.txt").decode()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License: Apache-2.0" in metadata or "License-Expression: Apache-2.0" in metadata
    assert [name for name in wheel.namelist() if name.startswith(info) and "LICENSE" in name]
