"""The report that ends a training: a trace of held-out examples, and the page about the run."""

from __future__ import annotations

import contextlib
import traceback

from hmoe.report import make
from hmoe.startup import signals
from hmoe.startup.console import Console
from hmoe.startup.request import Request, TraceFlags
from hmoe.t5.commands import trace
from hmoe.t5.sessions import processes


def write(request: Request, console: Console) -> None:
    """Traces held-out examples and writes the report of a run that has just been evaluated.

    The trace is that of `hmoe trace`. What fails here is said in a line, with the traceback in the
    log, and ends no training: the run is whole without it.

    Args:
      request: the command.
      console: prints lines for the user.

    Raises:
      KeyboardInterrupt: the user stopped the command, which a library may turn into another error.
    """
    console.say("")
    try:
        if request.machine.tpu is None:
            trace.trace_held_out(request, console, TraceFlags(), or_nothing=True)
        if processes.is_first():
            make.report(request.model_dir, console.say)
    except Exception as error:
        if signals.interrupted():
            raise
        with contextlib.suppress(OSError, ValueError):  # a full disk, or a closed file
            traceback.print_exc()
        console.say(f"There is no report of this run: {_line(error, console.log_path)}")


def _line(error: Exception, log_path: str | None) -> str:
    """Returns an error as a line for the user."""
    text = str(error).strip().split("\n")[0]
    if isinstance(error, (ValueError, OSError)):
        return text
    where = f"; the full traceback is in {log_path}" if log_path else ""
    return f"unexpected {type(error).__name__}{': ' if text else ''}{text}{where}"
