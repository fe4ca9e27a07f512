"""The trace that a command replays."""

from __future__ import annotations

from hmoe.analysis import traces
from hmoe.analysis.replay import Replay
from hmoe.startup.request import Request


def of_request(request: Request) -> Replay | None:
    """Reads the trace that a request names.

    Raises:
      ValueError: the file is no trace, its choices cannot be replayed, or the machine is a TPU.
      OSError: it cannot be read.
    """
    if request.replay is None:
        return None
    # A resume has the trace of the run that it takes up, which no flag was checked for.
    if request.machine.tpu is not None:
        raise ValueError(
            f"the run replays {request.replay}, and that on CPUs and GPUs; leave --tpu out, or"
            " begin a run of its own without --replay"
        )
    return Replay(request.replay, traces.read(request.replay))
