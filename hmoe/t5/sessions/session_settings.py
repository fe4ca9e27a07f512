"""Settings of sessions: seed, reports, interruption, and TensorFlow's own options."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import gin
from tensorflow.core.protobuf import rewriter_config_pb2

from hmoe.compat.stack import tf

ACTIVATION_DTYPES = ("float32", "bfloat16")


def _silent(line: str) -> None:
    tf.logging.info("%s", line)


@gin.configurable("Session", module="hmoe")
@dataclasses.dataclass(frozen=True)
class SessionSettings:
    """Settings of a run on CPUs and GPUs; in gin `hmoe.Session.<argument>`.

    Attributes:
      seed: seeds the initial weights and T5's own dropout; runs of one seed begin alike.
      log_every_steps: steps between two progress lines and between two points of every curve.
      graph_optimizer: whether TensorFlow's graph optimizer runs. On CPUs it made no step of a tiny
        model measurably faster, and delayed the first step by 13 seconds of computing.
      activation_dtype: data type of activations, "float32" or "bfloat16". It replaces
        `utils.get_variable_dtype`, which is meant for TPUs. With bfloat16, large layers took a
        third of the time on a processor with instructions for it (`lscpu` lists amx_bf16), and
        small layers no less than before. Weights and routing are float32.
      master: address of a `tf.train.Server` whose cluster runs the session; "" for this process.
      say: prints a line for the user; by default it goes to TensorFlow's log.
    """

    seed: int = 1
    log_every_steps: int = 10
    graph_optimizer: bool = False
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
        """Returns TensorFlow's options of a session."""
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
        """Records a first Ctrl-C (or SIGTERM) instead of raising; a second one interrupts at once.

        Yields:
          A function that returns whether one was recorded.
        """
        recorded = threading.Event()
        if threading.current_thread() is not threading.main_thread():
            yield recorded.is_set
            return

        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def record(number: int, frame: FrameType | None) -> None:
            recorded.set()
            signal.signal(number, handlers[signal.Signals(number)])
            self.say("Stopping after this step and saving; press Ctrl-C again to stop at once")

        for number in handlers:
            signal.signal(number, record)
        try:
            yield recorded.is_set
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
