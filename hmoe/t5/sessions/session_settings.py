"""Settings of sessions: seed, reports, interruption, and TensorFlow's own options."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import gin
from tensorflow.core.protobuf import rewriter_config_pb2

from hmoe import checks
from hmoe.compat.stack import tf
from hmoe.config import Configuration, choice, configuration, setting, switch
from hmoe.startup import signals
from hmoe.startup.live_region import LiveRegion
from hmoe.t5.sessions import expert_alarms

ACTIVATION_DTYPES = ("float32", "bfloat16")


def _silent(line: str) -> None:
    tf.logging.info("%s", line)


def _no_region() -> AbstractContextManager[LiveRegion | None]:
    return contextlib.nullcontext()


def _text(where: str, field: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {field} is {value!r}; it must be a text")
    return value


def _function(where: str, field: str, value: object) -> Callable[[str], None]:
    if not callable(value):
        raise ValueError(f"{where}: {field} is {value!r}; it must be a function of a line")
    return value


def _opener(where: str, field: str, value: object) -> Callable[[], AbstractContextManager]:
    if not callable(value):
        raise ValueError(f"{where}: {field} is {value!r}; it must be a function without arguments")
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
    live: Callable[[], AbstractContextManager[LiveRegion | None]] = setting(
        _no_region,
        doc="""Opens the end of the terminal for the table of a training run; by default there is
        none, and reports are lines.""",
        unit="function",
        source="hmoe",
        check=_opener,
    )
    alarm_steps: int = setting(
        100,
        doc="""Steps that alarms about experts judge at once, over and over. 0: there are no
        alarms.""",
        unit="steps",
        source="hmoe",
        check=checks.non_negative_int,
    )
    alarm_idle_experts: bool = switch(
        True,
        doc="""Whether an innermost expert that no token chose in `alarm_steps` steps is an alarm.
        Choices count before policy and capacity.""",
        source="hmoe",
    )
    alarm_group_below: float | None = setting(
        0.1,
        doc="""Demand for an outer expert, which is a group of inner ones, over the mean of its
        siblings, below which it is an alarm: tokens avoid the group. None: never.""",
        unit="times the mean, 0 to 1; or `None`",
        source="hmoe",
        check=checks.optional(checks.probability),
    )
    alarm_group_above: float | None = setting(
        3.0,
        doc="""The same, above which it is an alarm: the level collapses onto the group. Of X
        siblings one has at most X times the mean. None: never.""",
        unit="times the mean, at least 1; or `None`",
        source="hmoe",
        check=checks.optional(checks.at_least_one),
    )
    alarm_dropped_above: float | None = setting(
        0.25,
        doc="""Share of a layer's tokens left behind because of one level
        (`fraction_tokens_dropped`), above which it is an alarm. None: never.""",
        unit="share, 0 to 1; or `None`",
        source="hmoe",
        check=checks.optional(checks.probability),
    )
    alarm_entropy_below: float | None = setting(
        0.01,
        doc="""Mean entropy of a gate over that of an undecided one, ln(experts), below which it is
        an alarm. Without `hmoe.HierarchicalMoE.metrics = "full"` a bound on it, from the
        weights of slots, stands for it where there is one. None: never.""",
        unit="share, 0 to 1; or `None`",
        source="hmoe",
        check=checks.optional(checks.probability),
    )

    def error_prefix(self) -> str:
        """Returns the name of the class in gin."""
        return "hmoe.Session"

    def alarm_limits(self) -> expert_alarms.Limits:
        """Returns what alarms about experts are given for."""
        return expert_alarms.Limits(
            idle_experts=self.alarm_idle_experts,
            group_below=self.alarm_group_below,
            group_above=self.alarm_group_above,
            dropped_above=self.alarm_dropped_above,
            entropy_below=self.alarm_entropy_below,
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
