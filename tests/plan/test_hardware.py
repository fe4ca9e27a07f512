"""Known hardware, this machine, and files of a user's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hmoe.plan import hardware
from hmoe.plan.hardware import Hardware

NEEDED = "it has peak (operations in 1/s, two a multiplication), memory (bytes), fast and slow (bytes in 1/s along an axis inside a host, and between hosts), and perhaps devices_per_host, name and source"
OWN = {"peak": 2e12, "memory": 5e9, "fast": 3e9, "slow": 7e8}


def test_known_hardware_has_sources() -> None:
    assert sorted(hardware.KNOWN) == [
        "a100-ethernet",
        "a100-infiniband",
        "h100-ethernet",
        "h100-infiniband",
        "tpu-v2",
        "tpu-v3",
        "tpu-v4",
        "tpu-v5e",
        "tpu-v5p",
    ]
    for name, each in hardware.KNOWN.items():
        assert each is hardware.find(name, 8)
        assert each.name == name
        assert len(each.source) > 40
        assert each.fast >= each.slow > 1e9
        assert 1e13 < each.peak < 1e15
        assert 8e9 <= each.memory <= 1e11


def test_a_core_is_half_a_chip() -> None:
    core = hardware.KNOWN["tpu-v3"]
    assert (core.peak, core.memory) == (61.5e12, 16 * 2**30)
    # Two links of 656 Gbit/s, shared by two cores.
    assert core.fast == 82e9


def test_axes() -> None:
    gpus = hardware.KNOWN["h100-infiniband"]
    assert [gpus.bandwidth(hosts) for hosts in (1, 2, 5)] == [450e9, 50e9, 50e9]


def test_this_machine_is_shared() -> None:
    found = hardware.this_machine(4, measure=lambda: 8e11)
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (found.name, found.peak, found.memory) == ("cpu", 2e11, pages / 4)
    assert found.fast == found.slow > 0
    assert hardware.find("cpu", 2).peak > 1e8  # it is measured


def write(folder: Path, what: object) -> str:
    path = folder / "own.json"
    path.write_text(what if isinstance(what, str) else json.dumps(what), encoding="utf-8")
    return str(path)


def test_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, OWN)
    assert hardware.find(path, 2) == Hardware(
        name="own.json", devices_per_host=None, source=path, **OWN
    )
    more = {"name": "mine", "devices_per_host": 4, "source": "the label"}
    assert hardware.find(write(tmp_path, {**OWN, **more}), 2) == Hardware(**OWN, **more)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "{",
            "{path} is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        ([1], f"{{path}} holds no object; {NEEDED}"),
        ({"peak": 1}, f"{{path}} lacks 'memory'; {NEEDED}"),
        (
            {**OWN, "memry": 1},
            f"{{path}}: unknown field 'memry' (did you mean 'memory'?); {NEEDED}",
        ),
        ({**OWN, "fast": -1}, "{path}: fast is -1; it must be a number above 0"),
        ({**OWN, "peak": "2e12"}, "{path}: peak is '2e12'; it must be a number above 0"),
        ({**OWN, "slow": True}, "{path}: slow is True; it must be a number above 0"),
        (
            {**OWN, "devices_per_host": 2.5},
            "{path}: devices_per_host is 2.5; it must be a whole number above 0",
        ),
    ],
)
def test_a_file_that_describes_nothing(tmp_path: Path, what: object, message: str) -> None:
    path = write(tmp_path, what)
    with pytest.raises(ValueError) as error:
        hardware.find(path, 2)
    assert str(error.value) == f"--hardware: {message.format(path=path)}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = f"{tmp_path}/none.json"
    with pytest.raises(ValueError) as error:
        hardware.find(path, 2)
    assert str(error.value) == f"--hardware: {path}: No such file or directory"


def test_unknown_hardware() -> None:
    with pytest.raises(ValueError) as error:
        hardware.find("tpu-v33", 2)
    assert str(error.value) == (
        "--hardware: there is no hardware 'tpu-v33' (did you mean 'tpu-v3'?). Known are tpu-v2, tpu-v3, tpu-v4, tpu-v5e, tpu-v5p, a100-infiniband, a100-ethernet, h100-infiniband, h100-ethernet, cpu; a JSON file describes your own (docs/plan.md)"
    )
