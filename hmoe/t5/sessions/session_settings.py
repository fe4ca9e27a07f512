"""Settings of sessions: seed, reports, interruption, and TensorFlow's own options."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import gin
from tensorflow.core.protobuf import rewriter_config_pb2

from hmoe import checks
from hmoe.compat.stack import tf
from hmoe.config import Configuration, choice, configuration, setting, switch
from hmoe.startup import signals

ACTIVATION_DTYPES = ("float32", "bfloat16")


def _silent(line: str) -> None:
    tf.logging.info("%s", line)


def _text(where: str, field: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {field} is {value!r}; it must be a text")
    return value


def _function(where: str, field: str, value: object) -> Callable[[str], None]:
    if not callable(value):
        raise ValueError(f"{where}: {field} is {value!r}; it must be a function of a line")
    return value


@gin.configurable("Session", module="hmoe")
@configuration()
class SessionSettings(Configuration):
    """Settings of a run on CPUs and GPUs."""

    seed: int = setting(
        1,
        doc="Seed of the initial weights and of T5's own dropout; runs of one seed begin alike.",
        unit="whole number",
        source="hmoe",
        check=checks.non_negative_int,
    )
    log_every_steps: int = setting(
        10,
        doc="Steps between two progress lines and between two points of every curve.",
        unit="steps",
        source="hmoe",
        check=checks.positive_int,
    )
    graph_optimizer: bool = switch(
        False,
        doc="""Whether TensorFlow's graph optimizer runs. On CPUs it made no step of a tiny model
        measurably faster, and delayed the first step by 13 seconds of computing.""",
        source="hmoe",
    )
    reuse_graph: bool = switch(
        True,
        doc="""Whether operations that are built for one slice of the mesh are repeated for others,
        and constants shared, so that training begins sooner. False builds every slice anew, as Mesh
        TensorFlow does, and computes the same to the last bit.""",
        source="hmoe",
    )
    activation_dtype: str = choice(
        "float32",
        ACTIVATION_DTYPES,
        doc="""Data type of activations. It replaces `utils.get_variable_dtype`, which is meant for
        TPUs. With bfloat16, large layers took a third of the time on a processor with instructions
        for it (`lscpu` lists amx_bf16), and small layers no less than before. Weights and routing
        are float32.""",
        source="hmoe",
    )
    largest_weight: float = setting(
        1e6,
        doc="""Largest size of a weight that is saved; the optimizer's slots, which hold squares of
        gradients, may have its square. Beyond it, or with a weight that is not finite, training
        stops, and the last checkpoint stays the newest. Weights of T5 are below 1000; products of
        a few weights of 1e6 are beyond what float32 holds (3e38).""",
        unit="number above 0",
        source="hmoe",
        check=checks.positive_number,
    )
    master: str = setting(
        "",
        doc='Address of a `tf.train.Server` whose cluster runs the session; "" for this process.',
        unit="address",
        source="hmoe",
        check=_text,
    )
    say: Callable[[str], None] = setting(
        _silent,
        doc="Prints a line for the user; by default it goes to TensorFlow's log.",
        unit="function",
        source="hmoe",
        check=_function,
    )

    def error_prefix(self) -> str:
        """Returns the name of the class in gin."""
        return "hmoe.Session"

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
    def interruptible(self) -> Iterator[signals.OrderlyStop]:
        """Prepares to record a first Ctrl-C (or SIGTERM, or SIGHUP) instead of raising.

        Yields:
          The record. Until it is armed, when there is something to save, a signal ends the command
          at once; afterwards a second one does.
        """
        stop = signals.OrderlyStop(self.say)
        try:
            yield stop
        finally:
            stop.disarm()
