"""Hosts on one machine: their bytes and rates are those of a socket, and nothing of them stays."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import namespaces
from benchmarks.workers import ROOT

_LACK = namespaces.missing()
needs_root = pytest.mark.skipif(_LACK is not None, reason=str(_LACK))

# Prints the seconds from the first to the last of the bytes that arrive.
RECEIVE = """
import socket, time
with socket.create_server(("", 5000)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    assert connection.recv(1)
    began = time.monotonic()
    while connection.recv(1 << 20):
        pass
    print(time.monotonic() - began)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 5000)) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
"""
KEEP = """
import subprocess, sys
from benchmarks import namespaces
network = namespaces.Network(2)
words = ["sh", "-c", "echo started; exec sleep 600"]
sleeping = network.hosts[1].popen(words, stdout=subprocess.PIPE)
sleeping.stdout.readline()
print(*[host.pid for host in network.hosts], sleeping.pid, flush=True)
sys.stdin.read()
"""


def seconds_to_send(sender: namespaces.Host, receiver: namespaces.Host, size: int) -> float:
    """Sends bytes from one host to another, and returns how long they took."""
    with receiver.popen(
        [sys.executable, "-c", RECEIVE], stdout=subprocess.PIPE, text=True
    ) as receiving:
        assert receiving.stdout is not None
        assert receiving.stdout.readline() == "ready\n"
        send = [sys.executable, "-c", SEND, receiver.address, str(size)]
        subprocess.run(sender.command(send), check=True, timeout=100)
        return float(receiving.stdout.read())


@pytest.fixture(scope="module")
def network() -> Iterator[namespaces.Network]:
    with namespaces.Network(3) as made:
        yield made


@pytest.mark.slow
@needs_root
@pytest.mark.parametrize("megabits", [20, 100, 300])
def test_bytes_and_rate_are_those_of_a_socket(network: namespaces.Network, megabits: int) -> None:
    network.limit(megabits * 1e6)
    size = megabits * 1_000_000 // 8
    sender, receiver, _ = network.hosts
    before = [host.counted() for host in network.hosts]
    seconds = seconds_to_send(sender, receiver, size)
    after = [host.counted() for host in network.hosts]
    assert after[0].sent - before[0].sent == pytest.approx(size, rel=0.05)
    assert after[1].received - before[1].received == pytest.approx(size, rel=0.05)
    assert after[2].sent - before[2].sent < 2_000  # but what the kernel says by itself
    assert 8 * size / seconds == pytest.approx(megabits * 1e6, rel=0.15)


@pytest.mark.slow
@needs_root
def test_a_host_reaches_itself_past_its_link(network: namespaces.Network) -> None:
    network.limit(10e6)
    host = network.hosts[0]
    before = host.counted()
    assert seconds_to_send(host, host, 50_000_000) < 5  # 40 seconds over the link
    assert host.counted().sent - before.sent < 2_000


@pytest.mark.slow
@needs_root
def test_nothing_stays_of_a_process_that_is_killed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KEEP],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    inside = process.stdout.readline().split()
    spaces = {os.readlink(f"/proc/{pid}/ns/net") for pid in inside}
    # The sleeping process is in the second of the two.
    assert len(inside) == 3
    assert len(spaces) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until = time.monotonic() + 30
    while spaces & in_use():
        assert time.monotonic() < until, "namespaces are still there"
        time.sleep(0.05)


def in_use() -> set[str]:
    """The network namespaces that a process is in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(link))
    return found


def test_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "tc" else "/bin/it")
    with pytest.raises(namespaces.NamespacesError) as error:
        namespaces.Network(2)
    assert str(error.value) == "the program 'tc' is not here; install the package iproute2"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert namespaces.missing() == (
        "network namespaces need root; run this as root, for example with sudo"
    )


@needs_root
def test_a_command_that_fails_is_told_with_its_words(network: namespaces.Network) -> None:
    with pytest.raises(namespaces.NamespacesError) as error:
        network.hosts[0].configure("ip link set nothing up")
    assert str(error.value) == ("'ip link set nothing up' failed: Cannot find device \"nothing\"")
