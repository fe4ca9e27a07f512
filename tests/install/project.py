"""The files of the repository that describe its installation, read for the tests."""

from __future__ import annotations

import pathlib
import runpy
from typing import Any
from unittest import mock

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[2]


def setup_arguments() -> dict[str, Any]:
    """What setup.py hands to `setuptools.setup`."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs


def requirements_of(path: str) -> list[Requirement]:
    """The lines of a requirements file, comments left out."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    return [Requirement(text) for text in (line.split("#")[0].strip() for line in lines) if text]


def names_of(path: str) -> set[str]:
    """The canonical names in a requirements file."""
    return {canonicalize_name(requirement.name) for requirement in requirements_of(path)}


def applying(
    requirements: list[Requirement], environment: dict[str, str]
) -> dict[str, Requirement]:
    """Those whose markers hold in `environment`, by canonical name; a name twice is an error."""
    chosen: dict[str, Requirement] = {}
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in chosen, f"{requirement} and {chosen[name]} both apply"
            chosen[name] = requirement
    return chosen


def environment(python: str, machine: str = "x86_64") -> dict[str, str]:
    """The markers' environment of CPython `python` ("3.11") on Linux."""
    return {
        "python_version": python,
        "python_full_version": python + ".1",
        "sys_platform": "linux",
        "platform_machine": machine,
        "platform_system": "Linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "extra": "",
    }
