"""Configurations that many processes cannot share."""

from __future__ import annotations

import pathlib

import pytest

from hmoe.startup import configuration
from hmoe.startup.request import Request
from hmoe.startup.workers import Workers

FOUR = Workers(addresses=tuple(f"localhost:{port}" for port in (1, 2, 3, 4)), index=0)


def check(*lines: str, **given) -> list[str]:
    fields = {"command": "train", "model_dir": "new", "workers": FOUR, **given}
    return configuration.check(Request(gin_file=("runs/tiny.gin",), gin_param=lines, **fields))


def message(*lines: str, **given) -> str:
    with pytest.raises(ValueError) as error:
        check(*lines, **given)
    return str(error.value)


def test_a_process_for_each_slice() -> None:
    assert check() == []
    assert message("utils.run.mesh_shape = 'rows:2;cols:3'") == (
        "--workers has 4 addresses, but the mesh 'rows:2;cols:3' (utils.run.mesh_shape) has 6 "
        "slices; a run needs a process for each: start 6, or bind another mesh"
    )
    # The number of devices counts for one process alone, and is the same mistake there.
    assert "has 4 devices, but the mesh" in message(
        "utils.run.mesh_shape = 'rows:2;cols:3'", workers=None
    )


def test_devices_have_no_effect() -> None:
    line = "utils.run.mesh_devices = ['cpu:0', 'cpu:0']"
    assert check(line) == [
        f"--gin_param {line!r}: utils.run.mesh_devices = ['cpu:0', 'cpu:0'] has no effect with "
        "--workers"
    ]
    assert check("utils.run.mesh_devices = ['']") == []  # names none


def test_a_master() -> None:
    line = "hmoe.Session.master = 'grpc://localhost:2222'"
    assert message(line) == (
        f"--gin_param {line!r}: hmoe.Session.master is 'grpc://localhost:2222', the server of a run "
        "of one process; leave it out, or --workers"
    )


def test_standard_input(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    given = {"command": "predict", "model_dir": str(tmp_path)}
    assert message(**given) == (
        "many processes cannot share a prompt or standard input; give a text, or a file that all "
        "of them find with --input_file (hmoe launch makes one of standard input)"
    )
    assert check(**given, text=("a",)) == []
    assert check(**given, input_file=str(tmp_path / "in.txt")) == []
    assert check(f"decode_from_file.input_filename = {str(tmp_path / 'in.txt')!r}", **given) == []
    assert check("infer_model.decode_fn = @my.decode", **given) == []
    assert check(**given, workers=None) == []
