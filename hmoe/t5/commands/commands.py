"""Runs the subcommand that a request names, once TensorFlow is loaded."""

from __future__ import annotations

from collections.abc import Callable

from hmoe import compat
from hmoe.compat import stand_ins
from hmoe.compat.stack import tf
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import (
    ablate,
    evaluate,
    export,
    plan,
    predict,
    rewrite,
    score,
    taking_part,
    trace,
    train,
)

COMMANDS: dict[str, Callable[[Request, Console], None]] = {
    "train": train.train,
    "eval": evaluate.evaluate,
    "predict": predict.predict,
    "score": score.score,
    "trace": trace.trace,
    "ablate": ablate.ablate,
    "export": export.export,
    "split": rewrite.split,
    "merge": rewrite.merge,
    "plan": plan.plan,
}


def run(request: Request, console: Console) -> None:
    """Runs a command.

    Args:
      request: the command and its flags.
      console: prints lines for the user.

    Raises:
      ValueError: something is wrong that the user can fix.
      KeyboardInterrupt: the user stopped the command.
    """
    if request.machine.tpu and not compat.tpu_estimator_is_real():
        stand_ins.raise_no_tpu_estimator()
    compat.behave_like_v1()
    tf.logging.set_verbosity(tf.logging.INFO)
    with taking_part.in_run(request.workers, console):
        COMMANDS[request.command](request, console)
