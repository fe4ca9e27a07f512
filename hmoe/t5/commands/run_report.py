"""The report that ends a training: a trace of held-out examples, and the page about the run."""

from __future__ import annotations

from hmoe.report import make
from hmoe.startup.console import Console
from hmoe.startup.request import Request, TraceFlags
from hmoe.t5.commands import trace
from hmoe.t5.sessions import processes

# Held-out examples of each task that are traced: enough to see who goes where, in seconds.
TRACED = 256


def write(request: Request, console: Console) -> None:
    """Traces held-out examples and writes the report of a run that has just been evaluated.

    What fails here is said, and ends no training: the run is whole without it.

    Args:
      request: the command.
      console: prints lines for the user.
    """
    console.say("")
    try:
        if request.machine.tpu is None:
            trace.trace_held_out(request, console, TraceFlags(examples=TRACED), or_nothing=True)
        if processes.is_first():
            make.report(request.model_dir, console.say)
    except (ValueError, OSError) as error:
        console.say(f"There is no report of this run: {error}")
