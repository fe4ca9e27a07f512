"""Addresses and ports that processes cannot or should not have."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
import time

import pytest

from hmoe.launcher import processes
from hmoe.startup import worker_checks
from hmoe.startup.request import Machine, Request
from hmoe.startup.workers import Workers


def request(*addresses: str, **given) -> Request:
    workers = Workers(addresses=addresses, index=0, **given)
    return Request(command="train", model_dir="m", workers=workers)


def message(given: Request) -> str:
    with pytest.raises(ValueError) as error:
        worker_checks.check(given)
    return str(error.value)


def test_a_network_has_to_be_trusted() -> None:
    worker_checks.check(request("localhost:1", "127.0.0.1:2", "[::1]:3"))
    worker_checks.check(request("localhost:1", "10.0.0.2:2", trust_network=True))
    assert message(request("localhost:1", "10.0.0.2:2")) == (
        "--workers has '10.0.0.2:2', which other machines may reach. TensorFlow's server listens "
        "on all interfaces, has no authentication, and runs any graph that it is sent: whoever "
        "reaches its port can run code as you. Put a firewall or a private network around these "
        "machines (docs/security.md), then give --trust_network"
    )


def test_no_tpu() -> None:
    given = request("localhost:1", "localhost:2")
    assert message(dataclasses.replace(given, machine=Machine(tpu="t"))) == (
        "--workers and --tpu do not go together, since one process drives a TPU; leave --workers "
        "out"
    )
    given = request("localhost:1", "localhost:2", given_by="TF_CONFIG")
    assert message(dataclasses.replace(given, machine=Machine(tpu="t"))) == (
        "TF_CONFIG and --tpu do not go together, since one process drives a TPU; start without it "
        "(env -u TF_CONFIG hmoe ...)"
    )


def workers(address: str) -> Workers:
    return Workers(addresses=("localhost:1", address), index=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_a_port_in_use(host: str) -> None:
    """On any interface, since TensorFlow's server listens on all."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with pytest.raises(ValueError) as error:
            worker_checks.check_port(workers(f"localhost:{port}"))
    assert str(error.value) == (
        f"port {port} of this machine, which --workers gives to this process (number 1), is in use "
        "by another program; end that, or choose another port"
    )
    assert worker_checks.check_port(workers(f"localhost:{port}")) == []


def test_a_port_that_was_left_a_moment_ago() -> None:
    """Its connections may linger, and hold up no restart."""
    port = processes.free_ports(1)[0]
    code = (
        "import socket\n"
        f"s = socket.create_server(('127.0.0.1', {port}))\n"
        "print('listens', flush=True)\n"
        "s.accept()[0].close()\n"  # the side that closes first keeps the port
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            assert connection.recv(1) == b""
    time.sleep(0.1)
    assert worker_checks.check_port(workers(f"localhost:{port}")) == []


def test_a_forbidden_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ValueError) as error:
        worker_checks.check_port(workers("localhost:80"))
    assert str(error.value) == (
        "port 80 of this machine, which --workers gives to this process (number 1), cannot be "
        "opened (Permission denied); change that, or choose another port"
    )


def test_an_address_of_another_machine() -> None:
    [port] = processes.free_ports(1)
    # Reserved for documentation, so that no interface has it.
    assert worker_checks.check_port(workers(f"192.0.2.7:{port}")) == [
        f"--workers gives this process (number 1) the address 192.0.2.7:{port}, but no interface "
        "of this machine has '192.0.2.7'; the others will look for it there"
    ]
    [warning] = worker_checks.check_port(workers(f"no-such-host.invalid:{port}"))
    assert "but 'no-such-host.invalid' cannot be looked up (" in warning
