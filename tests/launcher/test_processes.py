"""How many processes run where, and the GPUs that they get."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hmoe.launcher import gpus, processes


def test_hosts() -> None:
    found = processes.on_hosts(["10.0.0.2:2222", "[fe80::1]:3000"], 1, 3, [])
    assert found.addresses() == (
        "10.0.0.2:2222", "10.0.0.2:2223", "10.0.0.2:2224",
        "[fe80::1]:3000", "[fe80::1]:3001", "[fe80::1]:3002",
    )  # fmt: skip
    assert (found.total, list(found.numbers)) == (6, [3, 4, 5])
    assert found.hosts_of_processes == ["10.0.0.2:2222"] * 3 + ["[fe80::1]:3000"] * 3
    assert found.given == "--hosts has 2 of 3 processes each"


def test_a_process_for_each_gpu() -> None:
    found = processes.on_this_machine(None, ["0", "1", "2"], 3)
    assert (found.total, found.gpus, found.given) == (3, ("0", "1", "2"), "this machine has 3 GPUs")
    assert processes.on_this_machine(2, ["4", "5", "6"], 2).gpus == ("4", "5")
    assert processes.on_hosts(["a:1", "b:1"], 0, None, ["0", "1"]).per_host == 2


HOSTS = ["a:2222", "a:2224"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: processes.on_this_machine(None, [], 4),
            "this machine has no GPU to start a process for; give the number of processes, one for "
            "each slice of the mesh, with -n 4",
        ),
        (
            lambda: processes.on_this_machine(None, [], None),
            "this machine has no GPU to start a process for; give the number of processes, one for "
            "each slice of the mesh, with -n",
        ),
        (
            lambda: processes.on_this_machine(4, ["0"], 4),
            "-n is 4, but this machine has 1 GPU, and two processes cannot share one; start fewer, "
            "or use the CPU alone (CUDA_VISIBLE_DEVICES= hmoe launch ...)",
        ),
        (
            lambda: processes.on_hosts(HOSTS, 0, None, []),
            "this machine has no GPU to start a process for; give the number of processes on each "
            "host with --workers_per_host",
        ),
        (
            lambda: processes.on_hosts(HOSTS, 2, 1, []),
            "--host_index is 2, but --hosts has 2 addresses; hosts are numbered from 0 to 1",
        ),
        (
            lambda: processes.on_hosts(HOSTS, 0, 3, []),
            "--hosts has a:2222 and a:2224, whose 3 processes each would share ports; choose ports "
            "3 apart",
        ),
        (
            lambda: processes.on_hosts(["a:65534", "b:1"], 0, 3, []),
            "--hosts has 'a:65534', whose port is 65536; a port is a number from 1 to 65535",
        ),
        (
            lambda: processes.on_hosts(["a", "b:1"], 0, 3, []),
            "--hosts has 'a', which is no address; it must be host:port, such as 10.0.0.2:2222 or "
            "[::1]:2222",
        ),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_ports_are_free_and_not_those_of_outgoing_connections() -> None:
    found = processes.free_ports(5)
    assert len(set(found)) == 5
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(found) < low
    for port in found:
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_taken_port_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    free = processes.free_ports(2)
    with socket.create_server(("127.0.0.1", free[0])):
        monkeypatch.setattr(processes, "_PORTS", free)
        monkeypatch.setattr(processes, "_TRIES", 2)
        assert processes.free_ports(1) == [free[1]]
        with pytest.raises(ValueError) as error:
            processes.free_ports(2)
    assert str(error.value) == "found 1 free ports on this machine, and 2 are needed"


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with 3 GPUs, of which one has a name with "GPU" in it."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n[ \"$1\" = -L ] || exit 1\n"
        "for i in 0 1 2; do echo \"GPU $i: NVIDIA GPU (UUID: GPU-$i$i)\"; done\n"
        "echo '  MIG 1g.10gb Device 0: (UUID: MIG-GPU-7)'\n"
    )  # fmt: skip
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin"}


@pytest.mark.parametrize(
    ("given", "visible"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        ("GPU-11, GPU-00", ["GPU-11", "GPU-00"]),
        ("1,-1,2", ["1"]),
        ("", []),
    ],
)
def test_visible_gpus(machine: dict[str, str], given: str | None, visible: list[str]) -> None:
    environ = machine if given is None else {**machine, "CUDA_VISIBLE_DEVICES": given}
    assert gpus.visible(environ) == visible


def test_gpus_without_the_program(tmp_path: Path) -> None:
    nothing = {"PATH": str(tmp_path)}
    assert gpus.visible(nothing, str(tmp_path / "no")) == []
    assert gpus.visible({**nothing, "CUDA_VISIBLE_DEVICES": "0"}, str(tmp_path / "no")) == []
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert gpus.visible(nothing, str(tmp_path)) == ["0", "1"]
