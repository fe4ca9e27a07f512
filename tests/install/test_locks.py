"""The lock files agree with setup.py, with each other, and name no place to download from."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.install import project

PYTHONS = {"default": ["3.10", "3.11", "3.12", "3.13"], "tpu": ["3.10", "3.11"]}
CASES = [(line, python) for line, pythons in PYTHONS.items() for python in pythons]
LOCKS = ["default", "default-dev", "tpu", "tpu-dev"]


def pin(requirement: Requirement) -> str:
    """The one version that a line of a lock file allows."""
    [specifier] = requirement.specifier
    assert specifier.operator == "==", f"{requirement} is not a pin"
    return specifier.version


def locked(name: str, environment: dict) -> dict:
    """Version by name of what a lock file installs in `environment`."""
    chosen = project.applying(project.requirements_of(f"requirements/{name}.txt"), environment)
    return {package: pin(requirement) for package, requirement in chosen.items()}


@pytest.mark.parametrize(("line", "python"), CASES)
def test_each_requirement_of_setup_is_locked_in_a_version_it_allows(line, python):
    environment = project.environment(python)
    arguments = project.setup_arguments()
    texts = arguments["install_requires"] + (
        arguments["extras_require"]["tpu"] if line == "tpu" else []
    )
    left_out = project.names_of("requirements/left-out.txt")
    pins = locked(line, environment)
    pins.setdefault("tensorflow", pins.get("tensorflow-cpu"))
    for requirement in map(Requirement, texts):
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate(environment)
        if applies and name not in left_out:
            allowed = requirement.specifier
            assert allowed.contains(pins[name], prereleases=True), (requirement, pins[name])


@pytest.mark.parametrize(
    ("line", "python", "machine", "wheel", "version"),
    [
        ("default", "3.10", "x86_64", "tensorflow-cpu", "2.21.0"),
        ("default", "3.13", "x86_64", "tensorflow-cpu", "2.21.0"),
        ("default", "3.13", "aarch64", "tensorflow", "2.21.0"),
        ("tpu", "3.10", "x86_64", "tensorflow", "2.15.1"),
        ("tpu", "3.11", "x86_64", "tensorflow", "2.15.1"),
    ],
)
def test_one_wheel_of_tensorflow_is_installed(line, python, machine, wheel, version):
    pins = locked(line, project.environment(python, machine))
    found = {name: pins[name] for name in ("tensorflow", "tensorflow-cpu") if name in pins}
    assert found == {wheel: version}


@pytest.mark.parametrize(("line", "python"), CASES)
def test_tests_and_training_share_versions(line, python):
    environment = project.environment(python)
    run, dev = locked(line, environment), locked(line + "-dev", environment)
    assert {"pytest", "ruff", "mypy"} <= dev.keys()
    both = run.keys() & dev.keys()
    assert {name: run[name] for name in both} == {name: dev[name] for name in both}


@pytest.mark.parametrize("name", LOCKS)
def test_what_is_left_out_is_in_no_lock(name):
    left_out = project.names_of("requirements/left-out.txt")
    assert not left_out & project.names_of(f"requirements/{name}.txt")


FILES = sorted(path.name for path in (project.ROOT / "requirements").iterdir())


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_a_place_to_download_from(name):
    text = (project.ROOT / "requirements" / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--" not in text
