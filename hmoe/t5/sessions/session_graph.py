"""TensorFlow graphs that sessions run, and the batches that are read into them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import gin

from hmoe import compat
from hmoe.compat.stack import mtf, tf
from hmoe.lowering.collective import CollectiveMesh
from hmoe.lowering.lower import make_mesh
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.sessions import processes
from hmoe.t5.sessions.estimator_protocol import InputFn
from hmoe.t5.sessions.session_settings import SessionSettings
from hmoe.version import __version__


@contextlib.contextmanager
def new_graph(seed: int) -> Iterator[tf.Graph]:
    """Makes a new graph the default one, seeded so that runs begin with the same weights."""
    compat.use_resource_variables()
    graph = tf.Graph()
    with graph.as_default():
        tf.set_random_seed(seed)
        tf.train.create_global_step()
        yield graph


def mesh_of(settings: ModelSettings, session: SessionSettings) -> mtf.MeshImpl:
    """Makes the mesh of CPUs and GPUs that a session lowers its graphs to."""
    if processes.current() is not None:
        return processes.mesh(settings.mesh_shape, settings.layout_rules)
    return make_mesh(
        settings.mesh_shape,
        settings.layout_rules,
        settings.mesh_devices,
        reuse_graph=session.reuse_graph,
    )


def configuration() -> dict[str, str]:
    """Returns what all processes of a run must have alike to build the same graph."""
    return {
        "versions": f"hmoe {__version__}\nTensorFlow {tf.version.VERSION}",
        "gin configuration": gin.config_str(),
    }


def topics(lowering: mtf.Lowering) -> dict[str, str]:
    """Returns what all processes of a run must have alike to run a graph, by what it is."""
    lines = [
        line
        for mesh_impl in lowering.mesh_to_impl.values()
        if isinstance(mesh_impl, CollectiveMesh)
        for line in mesh_impl.exchanges.lines
    ]
    return {
        **configuration(),
        "collectives": "\n".join(lines),
    }


def traffic_lines(lowering: mtf.Lowering) -> list[str]:
    """Returns a line with what each process sends when the graph runs once; none on one process."""
    mesh_impl = next(iter(lowering.mesh_to_impl.values()))
    if not isinstance(mesh_impl, CollectiveMesh):
        return []
    traffic = mesh_impl.traffic
    parts = [
        f"{each.collectives} {each.kind} along {' and '.join(each.axes)} "
        f"({each.tensors} tensors, {each.size / 1e6:.2f} MB)"
        for each in traffic
    ]
    count, size = sum(each.collectives for each in traffic), sum(each.size for each in traffic)
    return [
        f"Each step has {count} collectives, and each process sends {size / 1e6:.1f} MB: "
        f"{'; '.join(parts)}"
    ]


def next_batch(input_fn: InputFn) -> dict[str, tf.Tensor]:
    """Reads the next batch of a dataset each time that the graph runs."""
    return _next(input_fn({}))


def _next(dataset: tf.data.Dataset) -> Any:
    """Returns the next element of a dataset, in the structure of its elements."""
    with tf.device("/cpu:0"):
        iterator = tf.data.make_initializable_iterator(dataset)
        tf.add_to_collection(tf.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
        return iterator.get_next()


def next_numbered_batch(input_fns: Sequence[InputFn]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Reads the next batch of several datasets, one after another.

    Args:
      input_fns: each returns a dataset of batches.

    Returns:
      The batch, and int64 [], which of the datasets it comes from.
    """
    with tf.device("/cpu:0"):
        joined = None
        for number, input_fn in enumerate(input_fns):
            numbers = tf.data.Dataset.from_tensors(tf.constant(number, tf.int64)).repeat()
            dataset = tf.data.Dataset.zip((input_fn({}), numbers))
            joined = dataset if joined is None else joined.concatenate(dataset)
    return _next(joined)
