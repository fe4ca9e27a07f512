"""The watch on the other processes, with servers that stand in for TensorFlow's."""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from hmoe.startup.errors import ProcessLostError
from hmoe.startup.workers import Workers
from hmoe.t5.sessions import peer_watch
from hmoe.t5.sessions.peer_watch import PeerWatch
from tests import patience

HOST = "127.0.0.1"


class Status(grpc.GenericRpcHandler):
    def __init__(self, identity: int):
        self._answer = str(identity).encode()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != "/tensorflow.WorkerService/GetStatus":
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._answer)


class Standin:
    """A process of a run: it answers, is silent, or its port is closed."""

    def __init__(self, identity: int, host: str = HOST, port: int = 0):
        self.port = port or free_port()
        self.address = f"{host}:{self.port}"
        self._socket: socket.socket | None = None
        self.serve(identity)

    def serve(self, identity: int) -> None:
        options = [("grpc.so_reuseport", 0)]
        self._server = grpc.server(futures.ThreadPoolExecutor(4), [Status(identity)], None, options)
        self._server.add_insecure_port(self.address)
        self._server.start()

    def end(self) -> None:
        self._server.stop(None).wait()
        if self._socket:
            self._socket.close()

    def be_silent(self) -> None:
        """As a stopped process: the system accepts connections, and nobody answers."""
        self.end()
        self._socket = socket.create_server((HOST, self.port))


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


@pytest.fixture
def run() -> Iterator[list[Standin]]:
    """Four processes, of which the first is this one."""
    standins = [Standin(10 + number) for number in range(4)]
    yield standins
    for each in standins:
        each.end()


@contextlib.contextmanager
def watching(
    run: list[Standin], lost_after: float = 2.0, **more: float
) -> Iterator[tuple[PeerWatch, queue.Queue[str]]]:
    said: queue.Queue[str] = queue.Queue()
    addresses = tuple(each.address for each in run)
    workers = Workers(addresses=addresses, index=0, lost_after=lost_after, **more)
    watch = PeerWatch(workers, said.put)
    yield watch, said
    watch.stop()


def test_those_that_answer_are_there(run: list[Standin]) -> None:
    with watching(run) as (watch, said):
        watch.wait_for_all(said.put)
        watch.start()
        time.sleep(3)
        assert said.empty()


@pytest.mark.parametrize("lost_after", [2.0, pytest.param(300.0, marks=pytest.mark.slow)])
def test_one_that_ended_is_noticed_however_long_the_patience(
    run: list[Standin], lost_after: float
) -> None:
    with watching(run, lost_after) as (watch, said):
        watch.wait_for_all(said.put)
        watch.start()
        run[2].end()
        sentence = said.get(timeout=patience.HANG)
    assert sentence == f"process 2 ({run[2].address}) ended or is out of reach"


def test_another_process_at_its_address_is_not_it(run: list[Standin]) -> None:
    with watching(run) as (watch, said):
        watch.wait_for_all(said.put)
        watch.start()
        run[3].end()
        run[3].serve(99)
        sentence = said.get(timeout=patience.HANG)
    assert sentence == f"process 3 ({run[3].address}) ended or is out of reach"


def test_one_that_is_silent(run: list[Standin]) -> None:
    begun = time.monotonic()
    with watching(run, lost_after=4.0) as (watch, said):
        watch.wait_for_all(said.put)
        watch.start()
        run[1].be_silent()
        sentence = said.get(timeout=patience.HANG)
    assert sentence == (
        f"process 1 ({run[1].address}) did not answer for 2.4 s (--lost_after): stopped, hanging, "
        "or out of reach"
    )
    assert time.monotonic() - begun > 2.4


@pytest.mark.slow
def test_the_first_that_was_lost_is_named(run: list[Standin]) -> None:
    """Others end because of it, before this process has noticed."""
    with watching(run, lost_after=8.0) as (watch, said):
        watch.wait_for_all(said.put)
        watch.start()
        run[1].be_silent()
        time.sleep(3.5)
        run[2].end()
        run[3].end()
        sentence = said.get(timeout=patience.HANG)
    assert sentence.startswith(f"process 1 ({run[1].address}) ")
    assert "process 2" not in sentence
    assert "process 3" not in sentence


@pytest.mark.slow
def test_one_that_ends_because_of_another_is_not_named(run: list[Standin]) -> None:
    """It waits before it ends; the main thread finds both gone."""
    with watching(run, lost_after=30.0) as (watch, said):
        watch.wait_for_all(said.put)
        watch.start()
        time.sleep(1.5)
        run[2].end()
        time.sleep(2.8)
        run[1].end()
        sentence = watch.lost()
    assert sentence == f"process 2 ({run[2].address}) ended or is out of reach"


def test_two_that_end_at_once(run: list[Standin]) -> None:
    with watching(run) as (watch, said):
        watch.wait_for_all(said.put)
        watch.start()
        run[3].end()
        run[2].end()
        sentence = said.get(timeout=patience.HANG)
    assert sentence == (
        f"process 2 ({run[2].address}) and process 3 ({run[3].address}) ended or is out of reach"
    )


def test_time_that_this_process_was_stopped_does_not_count(
    run: list[Standin], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question is without an answer: that which it waited for when it was stopped."""
    with watching(run, lost_after=300.0) as (watch, said):
        watch.wait_for_all(said.put)
        for peer in watch._peers:
            peer.heard -= 1000.0
            peer.misses += 1
        assert watch._finding() == ("", 0.0)
        watch._ask()
        assert max(peer.unheard() for peer in watch._peers) < 10


def test_at_the_end_of_a_run_ends_are_expected(run: list[Standin]) -> None:
    with watching(run, lost_after=40.0) as (watch, said):
        watch._interval = watch._short_linger = 0.2  # and so noticed in a second, if it counted
        watch.wait_for_all(said.put)
        watch.start()
        watch.expect_ends()
        run[2].end()
        time.sleep(3)
        assert said.empty()


def test_waits_for_those_that_are_late(run: list[Standin]) -> None:
    run[2].end()
    with watching(run) as (watch, said), futures.ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(watch.wait_for_all, said.put)
        time.sleep(2)
        assert not waiting.done()
        run[2].serve(7)
        waiting.result(timeout=patience.HANG)


def test_one_that_never_comes(run: list[Standin], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_watch, "_SAID_AFTER", 0.5)
    run[1].end()
    run[3].be_silent()
    missing = f"process 1 ({run[1].address}) and process 3 ({run[3].address})"
    message = (
        f"{missing} did not answer within 1.5 s (--start_within). Start every process with the "
        "same --workers and with its own --worker_index, and see that nothing between them closes "
        "these ports"
    )
    raises = pytest.raises(ProcessLostError, match=f"^{re.escape(message)}$")
    with watching(run, start_within=1.5) as (watch, said), raises:
        watch.wait_for_all(said.put)
    assert [*said.queue] == [f"Waiting for {missing} ..."]


def test_one_that_waited_as_long_is_not_the_one_that_never_came(run: list[Standin]) -> None:
    run[1].end()
    message = f"process 1 ({run[1].address}) did not answer within 3 s (--start_within). "
    with watching(run, start_within=3.0) as (watch, said), futures.ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(watch.wait_for_all, said.put)
        time.sleep(1)
        run[2].end()
        with pytest.raises(ProcessLostError, match=f"^{re.escape(message)}"):
            waiting.result(timeout=patience.HANG)


def test_two_of_one_number_on_two_machines(run: list[Standin]) -> None:
    """The other machine is 127.0.0.2 here: each has a server on the same port."""
    other = Standin(77, "127.0.0.2", run[0].port)
    run[0].address = other.address
    message = (
        f"another process answers at {other.address}, the address of this one: --workers gives "
        "number 0 to both. Start each process once, on the machine that its address names, with "
        "its own number (--worker_index)"
    )
    raises = pytest.raises(ValueError, match=f"^{re.escape(message)}$")
    with watching(run) as (watch, said), raises:
        watch.wait_for_all(said.put)
    other.end()


def test_nobody_at_the_own_address(run: list[Standin]) -> None:
    run[0].address = f"127.0.0.3:{run[0].port}"
    message = (
        f"nobody answers at {run[0].address}, where --workers lets the others look for this "
        "process (number 0); name an address at which all of them reach it"
    )
    raises = pytest.raises(ValueError, match=f"^{re.escape(message)}$")
    with watching(run, start_within=1.0) as (watch, said), raises:
        watch.wait_for_all(said.put)


def test_who_ended_a_collective(run: list[Standin], monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not have ended yet when its error comes; a process that does not leave is ended."""
    monkeypatch.setattr(peer_watch, "_LEAVE_WITHIN", 0.5)
    with watching(run) as (watch, said):
        watch.wait_for_all(said.put)
        with futures.ThreadPoolExecutor(1) as threads:
            looking = threads.submit(watch.lost)
            time.sleep(1)
            assert not looking.done()
            run[2].end()
            sentence = looking.result(timeout=patience.HANG)
        assert sentence == f"process 2 ({run[2].address}) ended or is out of reach"
        assert said.get(timeout=patience.HANG) == sentence


def test_nobody_ended(run: list[Standin], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_watch, "_SETTLE", 1.0)
    with watching(run) as (watch, said):
        watch.wait_for_all(said.put)
        assert watch.lost() is None
