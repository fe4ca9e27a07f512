"""How sessions run and report: seed, reports, interruption, and TensorFlow's own settings."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gin
from tensorflow.core.protobuf import rewriter_config_pb2

from hmoe.compat.stack import tf

ACTIVATION_DTYPES = ("float32", "bfloat16")


def _silent(line: str) -> None:
    tf.logging.info("%s", line)


@gin.configurable("Session", module="hmoe")
@dataclasses.dataclass(frozen=True)
class SessionSettings:
    """Of a run on CPUs and GPUs; in gin `hmoe.Session.<argument>`.

    Attributes:
      seed: of the initial weights and of T5's own dropout; the same seed begins alike.
      log_every_steps: steps between two lines of progress and two points of every curve.
      graph_optimizer: whether TensorFlow's graph optimizer runs. On CPUs it made no step of a
        tiny model measurably faster, and the first one came 13 seconds of computing later.
      reuse_graph: whether operations that are built for one slice of the mesh are repeated for
        others, and constants shared, so that training begins sooner. False builds every slice
        anew, as Mesh TensorFlow does, and computes the same to the last bit.
      activation_dtype: of activations, in place of `utils.get_variable_dtype`, which is for
        TPUs: "float32", or "bfloat16", in which large layers took a third of the time on a
        processor with instructions for it (`lscpu` names amx_bf16), and small ones no less.
        Weights and routing are float32.
      master: address of a `tf.train.Server` whose cluster runs the session; "" for this
        process.
      say: takes a line for the user; by default it goes to TensorFlow's log.
    """

    seed: int = 1
    log_every_steps: int = 10
    graph_optimizer: bool = False
    reuse_graph: bool = True
    activation_dtype: str = "float32"
    master: str = ""
    say: Callable[[str], None] = _silent

    def __post_init__(self) -> None:
        if self.log_every_steps < 1:
            raise ValueError(
                f"hmoe.Session.log_every_steps is {self.log_every_steps}; use 1 or more"
            )
        if self.activation_dtype not in ACTIVATION_DTYPES:
            raise ValueError(
                f"hmoe.Session.activation_dtype is {self.activation_dtype!r}; use "
                + " or ".join(map(repr, ACTIVATION_DTYPES))
            )

    def config(self) -> tf.ConfigProto:
        """TensorFlow's session settings."""
        rewriting = rewriter_config_pb2.RewriterConfig
        options = rewriting(
            disable_meta_optimizer=not self.graph_optimizer,
            meta_optimizer_iterations=rewriting.ONE,
        )
        return tf.ConfigProto(
            allow_soft_placement=True,
            graph_options=tf.GraphOptions(rewrite_options=options),
        )

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[Callable[[], bool]]:
        """Within it, a first Ctrl-C (or SIGTERM) is noted, and a second one interrupts.

        Yields:
          A function that tells whether one was noted.
        """
        noted = threading.Event()
        if threading.current_thread() is not threading.main_thread():
            yield noted.is_set
            return

        before: dict[int, Any] = {}

        def note(number: int, frame: Any) -> None:
            noted.set()
            signal.signal(number, before[number])
            self.say("Stopping after this step and saving; press Ctrl-C again to stop at once")

        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
        try:
            yield noted.is_set
        finally:
            for taken, handler in before.items():
                signal.signal(taken, handler)
