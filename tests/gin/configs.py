"""Reads shipped gin files, and builds what they describe."""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import gin
import numpy as np

from hmoe import compat

compat.behave_like_v1()

import hmoe.t5  # noqa: E402, F401
from hmoe.compat.stack import mtf, tf  # noqa: E402
from hmoe.startup import gin_files  # noqa: E402
from hmoe.t5.commands import gin_config, t5_run  # noqa: E402
from hmoe.t5.graphs import build  # noqa: E402
from hmoe.t5.graphs.model_settings import TRAIN  # noqa: E402
from hmoe.t5.sessions.session_settings import SessionSettings  # noqa: E402

VOCAB = 64

# Enough of a batch for whole groups on every layout up to 4 x 4.
SMALL_DATA = (
    'utils.run.sequence_length = {"inputs": 16, "targets": 16}',
    "utils.run.batch_size = 32",
    "utils.run.train_steps = 1",
)


def names(folder: str, hidden: bool = False) -> list[str]:
    """Gin files of a folder, as users name them; those meant for inclusion only if `hidden`."""
    found = sorted(os.listdir(os.path.join(gin_files.folder(), folder)))
    return [
        f"{folder}/{name}"
        for name in found
        if name.endswith(".gin") and name.startswith("_") == hidden
    ]


def text(name: str) -> str:
    """What is written in a file."""
    with open(os.path.join(gin_files.folder(), name), encoding="utf-8") as file:
        return file.read()


@contextlib.contextmanager
def parsed(files: Sequence[str], bindings: Sequence[str] = ()) -> Iterator[None]:
    """Within it, gin has the files' configuration, finalized; nothing is left of it after."""
    gin.clear_config()
    try:
        gin_config.read(files, bindings)
        gin.finalize()
        yield
    finally:
        gin.clear_config()


def macro(name: str) -> Any:
    """The present value of a macro."""
    return gin.query_parameter(f"{name}/macro.value")


class Vocabulary:
    """As much of a vocabulary as a model's description takes."""

    vocab_size = VOCAB


def described(model_dir: str = "") -> Any:
    """The estimator that `utils.run` makes of the present configuration, checked, not built."""
    caught: list[Any] = []
    t5_run.T5Run(
        mode="train",
        model_dir=model_dir,
        say=_fail_on_warning,
        arguments={
            "vocabulary": Vocabulary(),
            "train_dataset_fn": _no_data,
            "train_model_fn": lambda estimator, *_, **__: caught.append(estimator),
        },
    ).start()
    return caught[0]


def _fail_on_warning(line: str) -> None:
    assert "Warning" not in line, line


def _no_data(*unused: Any, **unused_too: Any) -> None:
    raise AssertionError("no data is read")


def features(settings: Any) -> dict:
    """Random ids for inputs and targets, with padding at the ends of some rows."""
    random = np.random.RandomState(7)
    given = {}
    for name in ("targets",) if settings.model_type == "lm" else ("inputs", "targets"):
        length = settings.sequence_length[name]
        ids = random.randint(2, VOCAB, [settings.batch_size, length]).astype(np.int32)
        ids[::5, length * 3 // 4 :] = 0
        given[name] = ids
    return given


def session() -> Any:
    """A session for a few steps, which are not worth the time that the graph optimizer takes."""
    return tf.Session(config=SessionSettings(graph_optimizer=False).config())


def train_step(settings: Any, steps: int = 1) -> Any:
    """Trains on one batch; returns (the losses, the lowering)."""
    with tf.Graph().as_default():
        tf.set_random_seed(1)
        tf.train.create_global_step()
        given = {name: tf.constant(ids) for name, ids in features(settings).items()}
        graph = build.build_graph(settings, given, TRAIN)
        with session() as running:
            running.run(tf.global_variables_initializer())
            running.run(graph.lowering.copy_masters_to_slices())
            losses = [running.run([graph.loss, graph.train_op])[0] for _ in range(steps)]
    return losses, graph.lowering


def collectives(lowering: Any, kind: str) -> dict[str, int]:
    """How many collectives of a kind ("alltoall", "allconcat") run along each mesh axis."""
    counts: collections.Counter = collections.Counter()
    mesh_shape = next(iter(lowering.mesh_to_impl.values())).shape
    for name, _ in lowering.counters:
        if name.startswith(f"{kind}/"):
            counts[mesh_shape.dims[int(name.split("/")[1])].name] += 1
    return dict(counts)


def largest_gathered(lowering: Any) -> int:
    """The most numbers that one allconcat leaves on all devices together."""
    return max([size for name, size in lowering.counters if name.startswith("allconcat/")] or [0])


__all__ = [
    "collectives",
    "described",
    "features",
    "largest_gathered",
    "macro",
    "mtf",
    "names",
    "parsed",
    "session",
    "text",
    "tf",
    "train_step",
]
