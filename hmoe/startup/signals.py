"""Ends a command on Ctrl-C, SIGTERM and SIGHUP, whatever it is doing.

Until a command runs, an exception would not do: while modules are imported, it may come up in a
callback that drops it. And a handler in Python waits until TensorFlow returns to Python, which may
take minutes. So a thread watches for signals, and ends the process itself where need be.

A signal that was ignored when the process began (`nohup`) stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Seconds that a running command has to end by itself after a signal.
GRACE = 2.0

_WORDS = {
    signal.SIGINT: "Interrupted.",
    signal.SIGTERM: "Ended by SIGTERM.",
    signal.SIGHUP: "Ended by SIGHUP.",
}


def exit_status(number: int) -> int:
    """Returns the exit status of a process that a signal ended, as shells count: 130 for Ctrl-C."""
    return 128 + number


class Guard:
    """Handles the signals of a process while it is entered.

    At first a signal ends the process at once; nothing is lost by that. While `raising` is entered,
    it raises KeyboardInterrupt, so that files are closed and removed; if the command has not ended
    after `GRACE` seconds, or at a second signal, the process ends. An `OrderlyStop` takes the first
    signal for itself.

    Attributes:
      received: the number of the last signal; None before there was one.
      hard_exit: whether the process has to leave without waiting for threads that are not Python's.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.hard_exit = False
        self._tell: Callable[[str], None] = _print_error
        self._cleanups: list[Callable[[], None]] = []
        self._last_cleanups: list[Callable[[], None]] = []
        self._raises = False
        self._left_to_others = 0  # signals that an `OrderlyStop` takes
        self._raised = False
        self._telling = threading.Lock()
        self._has_said_farewell = False
        self._handlers: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> Guard:
        global _active
        if threading.current_thread() is not threading.main_thread():
            return self
        _active = self
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        self._pipe = (reading, writing)
        # Python writes the number of each signal there at once, also while TensorFlow runs.
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._handlers = _replace_handlers(self._handle)
        threading.Thread(target=self._watch, args=[reading], name="signals", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _active
        if self._pipe is None:
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        _active = None
        os.close(self._pipe[1])  # which ends the thread
        self._pipe = None

    def tell_by(self, function: Callable[[str], None]) -> None:
        """Has a function print the guard's lines for the user; until then they go to fd 2."""
        self._tell = function

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Lets signals raise KeyboardInterrupt for the length of a command."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    @contextlib.contextmanager
    def cleanup(self, function: Callable[[], None], *, last: bool = False) -> Iterator[None]:
        """Has a function called if the process is ended inside; otherwise it is not called.

        Args:
          function: the function.
          last: whether it is called at the very end, after the line for the user.
        """
        cleanups = self._last_cleanups if last else self._cleanups
        cleanups.append(function)
        try:
            yield
        finally:
            cleanups.remove(function)

    def leave_hard(self) -> None:
        """Makes the process leave at its end without waiting for threads that are not Python's."""
        self.hard_exit = True

    def farewell(self) -> int:
        """Prints, once, that the command was interrupted, and returns its exit status."""
        number = signal.Signals(self.received or signal.SIGINT)
        # Whoever comes second waits, so as not to end the process before the line is printed.
        has_lock = self._telling.acquire(timeout=1)
        if not self._has_said_farewell:
            self._has_said_farewell = True
            self._tell(_WORDS[number])
        if has_lock:
            self._telling.release()
        return exit_status(number)

    @property
    def interrupted(self) -> bool:
        """Whether a signal raised KeyboardInterrupt, which libraries may turn into other errors."""
        return self._raised

    def leave_one_to(self, others: bool) -> None:
        """Lets the next signal be handled by others, or no longer."""
        self._left_to_others = int(others)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first, self.received = self.received is None, number
        if self._raises and is_first:
            self._raised = True
            raise KeyboardInterrupt

    def _watch(self, pipe: int) -> None:
        is_first = True
        for number in iter(lambda: os.read(pipe, 1), b""):
            if number[0] not in self._handlers:
                continue
            waits, is_first = is_first and (self._raises or self._raised), False
            if self._left_to_others:
                self._left_to_others -= 1
                continue
            if waits and not self._wait(pipe):
                break
            self.received = number[0]
            self._end()
        os.close(pipe)

    def _wait(self, pipe: int) -> bool:
        """Waits for the command to end by itself; returns whether it has to be ended."""
        readable, _, _ = select.select([pipe], [], [], GRACE)
        return not readable or bool(os.read(pipe, 1))

    def clean_up(self) -> None:
        """Calls all cleanups, for a process that is about to end."""
        _call(self._cleanups)
        _call(self._last_cleanups)

    def _end(self) -> None:
        _call(self._cleanups)
        status = self.farewell()
        _call(self._last_cleanups)
        os._exit(status)


class OrderlyStop:
    """Records a first signal instead of raising, once it is armed; a second one ends at once.

    Args:
      say: prints a line for the user.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._asked = threading.Event()
        self._handlers: dict[int, Any] = {}

    def asked(self) -> bool:
        """Returns whether a signal was recorded."""
        return self._asked.is_set()

    def arm(self) -> None:
        """Begins to record; before, signals do what they did."""
        if threading.current_thread() is threading.main_thread() and not self._handlers:
            self._leave_one(True)
            self._handlers = _replace_handlers(self._record)

    def ask(self) -> None:
        """Records a stop that another process of the run was asked for."""
        self._asked.set()
        if _active:
            _active.received = _active.received or signal.SIGTERM

    def disarm(self) -> None:
        """Ends recording, and puts the handlers back that stood before."""
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if handlers:
            self._leave_one(False)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()
        if _active:
            _active.received = number
        for each, handler in self._handlers.items():
            signal.signal(each, handler)
        with contextlib.suppress(RuntimeError):  # the signal came while a line was printed
            self._say("Stopping after this step and saving; press Ctrl-C again to stop at once")

    def _leave_one(self, others: bool) -> None:
        if _active:
            _active.leave_one_to(others)


# The guard of this process, if it is a command.
_active: Guard | None = None


@contextlib.contextmanager
def cleanup(function: Callable[[], None], *, last: bool = False) -> Iterator[None]:
    """Has a function called if a signal ends the process inside; see `Guard.cleanup`."""
    with _active.cleanup(function, last=last) if _active else contextlib.nullcontext():
        yield


def interrupted() -> bool:
    """Returns whether a signal interrupts the command, whatever error libraries made of it."""
    return _active is not None and _active.interrupted


def end_process(status: int) -> NoReturn:
    """Ends the process at once, from any thread, after the cleanups of its guard."""
    if _active:
        _active.clean_up()
    os._exit(status)


def _call(functions: Sequence[Callable[[], None]]) -> None:
    """Calls functions, the newest first, whatever becomes of each."""
    for function in reversed(functions):
        with contextlib.suppress(Exception):
            function()


def _replace_handlers(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Sets the handler of each signal that is not ignored; returns the former ones by number."""
    former: dict[int, Any] = {number: signal.getsignal(number) for number in NUMBERS}
    replaced = {n: old for n, old in former.items() if old not in (signal.SIG_IGN, None)}
    for number in replaced:
        signal.signal(number, handler)
    return replaced


def _print_error(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
