"""What processes send, at their sockets and by the counters; their graphs on large meshes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from benchmarks import processes, sockets
from benchmarks.mesh_pool import MeshPool
from benchmarks.workers import SideError


def test_bytes_are_those_of_a_socket() -> None:
    before = sockets.on_sockets()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
        server.accept()[0] as other,
    ):
        one.sendall(bytes(50_000))
        left = 50_000
        while left:
            left -= len(other.recv(left))
        # A byte back, which comes with what was received so far.
        other.sendall(b"!")
        assert one.recv(1) == b"!"
        after = sockets.on_sockets()
    assert after.received - before.received == 50_001
    assert after.sent - before.sent in range(50_000, 50_003)  # SYN and FIN count as one


@pytest.mark.slow
def test_counted_bytes_are_those_of_the_counters(tmp_path: Path) -> None:
    with MeshPool(tmp_path / "log") as pool:
        rows = [processes.shared(pool, *mesh, 3) for mesh in ((1, 2), (2, 2))]
        assert processes.largest_difference(rows) < 0.05
        assert min(row["by counters"] for row in rows) > 1e6
        with pytest.raises(SideError) as error:
            pool.ask("build", module="mesh_layer", name="Nothing", settings={})
        assert str(error.value) == (
            "process 0: AttributeError: module 'benchmarks.sides.mesh_layer' has no attribute "
            f"'Nothing'; see {tmp_path / 'log'}"
        )
        (first, *_) = pool.ask("pid")
        os.kill(first, 9)
        with pytest.raises(SideError) as error:
            pool.ask("pid")
        assert str(error.value) == f"process 0: it has ended; see {tmp_path / 'log'}"


def test_processes_that_do_not_answer_are_not_waited_for(tmp_path: Path) -> None:
    """Importing TensorFlow takes longer."""
    with MeshPool(tmp_path / "log", limit=0.125) as pool:
        with pytest.raises(SideError) as error:
            pool.start([None])
        assert str(error.value) == f"no answer within 0.125 seconds; see {tmp_path / 'log'}"


@pytest.mark.slow
def test_a_process_does_not_grow_with_the_mesh() -> None:
    small, large = (processes.in_child(processes.built, *mesh) for mesh in ((2, 2), (16, 16)))
    # What differs is how groups divide among the slices.
    assert large["operations"] < 1.05 * small["operations"]
    assert large["memory"] < small["memory"] + 50e6
