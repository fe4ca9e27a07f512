"""Runs a graph on batch after batch, with the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hmoe.compat.stack import mtf, tf
from hmoe.t5.sessions import agreement, architecture_check, checkpoints, session_graph
from hmoe.t5.sessions.hooks import ToSlicesHook
from hmoe.t5.sessions.mesh_saver import MeshSaver
from hmoe.t5.sessions.processes import SessionOfRun
from hmoe.t5.sessions.session_settings import SessionSettings

# Tensors in dicts and tuples; a session returns arrays in the same structure.
Fetches = TypeVar("Fetches")


def run_batches(
    session: SessionSettings,
    lowering: mtf.Lowering,
    batch: Any,
    fetches: Fetches,
    path: str,
    newer: Callable[[], str] | None = None,
) -> Iterator[Fetches]:
    """Fetches tensors of the default graph until the data ends.

    Args:
      session: settings of the session.
      lowering: the lowered graph.
      batch: the tensors that read the next batch of the data, in dicts and tuples.
      fetches: tensors in dicts and tuples.
      path: the checkpoint's path prefix.
      newer: returns another checkpoint, if that one has been removed in the meantime.

    Yields:
      The arrays of each batch, in the structure of `fetches`.

    Raises:
      ValueError: the checkpoint does not match the model.
    """
    saver = MeshSaver(lowering)
    try:
        architecture_check.check_matches(path, with_optimizer=False)
    except checkpoints.RemovedError:
        if newer is None:
            raise
        path = newer()
        architecture_check.check_matches(path, with_optimizer=False)
    agreement.check({"checkpoint": path, **session_graph.topics(lowering)})
    scaffold = saver.scaffold(path, newer)
    with SessionOfRun(
        scaffold, [ToSlicesHook(saver)], session.master, session.config()
    ) as tf_session:
        while True:
            try:
                # Apart, so that the end of the data fails a run without collectives: a process that
                # ended a run with them would remove what another one still waits for.
                read = tf_session.run_alone(batch)
            except tf.errors.OutOfRangeError:
                return
            feed = dict(zip(tf.nest.flatten(batch), tf.nest.flatten(read)))
            yield tf_session.run(fetches, feed)
