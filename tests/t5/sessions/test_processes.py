"""What becomes of the errors of sessions when other processes may be gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hmoe.compat.stack import tf
from hmoe.startup.errors import ProcessLostError
from hmoe.startup.workers import Workers
from hmoe.t5.sessions import processes
from hmoe.t5.sessions.processes import Processes, SessionOfRun

ABORTED = "Collective ops is aborted by: Socket closed"


class Watch:
    """Stands in for the watch on the others; counts the questions to it."""

    def __init__(self, sentence: str | None):
        self.sentence, self.count = sentence, 0

    def lost(self) -> str | None:
        self.count += 1
        return self.sentence


@pytest.fixture
def watched() -> Iterator[Callable[[str | None], Watch]]:
    def watch(sentence: str | None) -> Watch:
        found: Any = Watch(sentence)
        workers = Workers(addresses=("127.0.0.1:1", "127.0.0.1:2"), index=0)
        processes._current[:] = [Processes(workers, "", "/cpu:0", "auto", found)]
        return found

    yield watch
    processes._current.clear()


def raised(error: Exception) -> None:
    with processes.noticing_loss():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.UnavailableError(None, None, "Socket closed"),
        tf.errors.AbortedError(None, None, "x"),
        tf.errors.CancelledError(None, None, "x"),
        tf.errors.DeadlineExceededError(None, None, "x"),
        tf.errors.InternalError(None, None, ABORTED),
        # A process passes the kind of its own error on to the others.
        tf.errors.InvalidArgumentError(None, None, ABORTED),
        tf.errors.OutOfRangeError(None, None, ABORTED),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_collectives(watched: Callable[..., Watch], error: Exception) -> None:
    watched("process 1 is gone")
    with pytest.raises(ProcessLostError, match="^process 1 is gone$"):
        raised(error)
    watch = watched(None)
    with pytest.raises(type(error)) as found:
        raised(error)
    assert (found.value, watch.count) == (error, 1)


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.InternalError(None, None, "a kernel failed"),
        tf.errors.OutOfRangeError(None, None, "End of sequence"),
        tf.errors.ResourceExhaustedError(None, None, "No space left on device"),
        ValueError(ABORTED),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_this_process_alone(watched: Callable[..., Watch], error: Exception) -> None:
    watch = watched("process 1 is gone")
    with pytest.raises(type(error)) as found:
        raised(error)
    assert (found.value, watch.count) == (error, 0)


def test_a_process_alone_has_lost_nobody() -> None:
    with pytest.raises(tf.errors.UnavailableError):
        raised(tf.errors.UnavailableError(None, None, "Socket closed"))


class Failing(tf.train.SessionRunHook):
    """Fails in a run, as TensorFlow does when a server is gone; notes the starts of sessions."""

    def __init__(self, error: Exception, run: int):
        self.error, self.left, self.starts = error, run, 0

    def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
        self.starts += 1

    def after_run(self, context: tf.train.SessionRunContext, values: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.mark.parametrize("kind", [tf.errors.UnavailableError, tf.errors.AbortedError])
def test_a_session_does_not_recover(
    watched: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch, kind: type[tf.errors.OpError]
) -> None:
    """TensorFlow's would begin again with the first values, and go on."""
    watched(None)
    monkeypatch.setattr(processes, "session_config", lambda config: config)
    monkeypatch.setattr(processes, "run_options", lambda: None)
    with tf.Graph().as_default():
        step = tf.train.create_global_step()
        count = tf.assign_add(step, 1)
        hook = Failing(kind(None, None, "Socket closed"), 3)
        counts: list[int] = []

        def run() -> None:
            with SessionOfRun(tf.train.Scaffold(), [hook], "", tf.ConfigProto()) as session:
                while len(counts) < 10:
                    counts.append(int(session.run(count)))

        with pytest.raises(kind):
            run()
    assert (counts, hook.starts) == ([1, 2], 1)
