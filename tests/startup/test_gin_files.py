"""Finds the gin files in a checkout and in an installed package."""

from __future__ import annotations

import pathlib

import pytest

from hmoe.startup import gin_files

ROOT = pathlib.Path(__file__).parents[2]


def test_checkout_uses_the_folder_at_the_top():
    assert gin_files.folder() == str(ROOT / "gin")


def test_installed_package_uses_its_own(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "hmoe"
    (package / "gin" / "models").mkdir(parents=True)
    monkeypatch.setattr(gin_files, "_PACKAGE", str(package))
    assert gin_files.folder() == str(package / "gin")


def test_the_package_gin_config_is_not_taken_for_a_checkout(tmp_path, monkeypatch):
    (tmp_path / "gin").mkdir()
    monkeypatch.setattr(gin_files, "_PACKAGE", str(tmp_path / "hmoe"))
    with pytest.raises(FileNotFoundError) as error:
        gin_files.folder()
    assert str(error.value) == (
        f"the gin files of hmoe are neither in {tmp_path}/hmoe/gin (an installed package) nor in "
        f"{tmp_path}/gin (a checkout); install hmoe again"
    )
