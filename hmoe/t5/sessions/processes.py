"""This process among those that share the mesh of a run: its server, sessions and collectives.

TensorFlow's server cannot be stopped, so that a process is a worker of one run for as long as it
lives, and what is known about it stands here once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from hmoe.compat.stack import mtf, tf
from hmoe.lowering.collective import CollectiveMesh, group_key
from hmoe.lowering.lower import make_mesh_of_processes
from hmoe.startup.workers import Workers

_JOB = "worker"
# By which TensorFlow knows which runs of sessions, in all processes, belong together.
_GRAPH_KEY = 1
# Numbers of the collectives outside a mesh: those of meshes begin at 1000.
_BARRIER, _LENGTHS = 1, 2


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of a run, with this one's server.

    Attributes:
      workers: where they are.
      target: TensorFlow's address of this process's server.
      device: the device of this process's slice.
      hint: how collectives communicate: "auto" or "nccl".
    """

    workers: Workers
    target: str
    device: str
    hint: str

    @property
    def size(self) -> int:
        """The number of processes."""
        return len(self.workers.addresses)

    @property
    def all(self) -> list[int]:
        """The numbers of all processes."""
        return list(range(self.size))


_current: list[Processes] = []


def start(workers: Workers) -> Processes:
    """Starts the server of this process, which lives as long as the process does.

    Raises:
      RunFailedError: the server cannot be started.
    """
    cluster = tf.train.ClusterSpec({_JOB: list(workers.addresses)})
    config = _alone(tf.ConfigProto(), workers.index)
    server = tf.train.Server(cluster, job_name=_JOB, task_index=workers.index, config=config)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    device = f"/job:{_JOB}/replica:0/task:{workers.index}/device:{'GPU' if on_gpu else 'CPU'}:0"
    found = Processes(workers, server.target, device, "nccl" if on_gpu else "auto")
    _current[:] = [found]
    _servers.append(server)
    return found


_servers: list[tf.train.Server] = []


def current() -> Processes | None:
    """Returns the processes of this run; None if this process runs alone."""
    return _current[0] if _current else None


def is_first() -> bool:
    """Returns whether this process writes what is written once: it is alone, or the first."""
    found = current()
    return found is None or found.workers.is_first


def session_config(config: tf.ConfigProto) -> tf.ConfigProto:
    """Makes sessions see this process alone, and reach the others by collectives."""
    found = current()
    return config if found is None else _alone(config, found.workers.index)


def _alone(config: tf.ConfigProto, index: int) -> tf.ConfigProto:
    config.device_filters.append(f"/job:{_JOB}/task:{index}")
    config.experimental.collective_group_leader = f"/job:{_JOB}/replica:0/task:0"
    return config


def run_options() -> tf.RunOptions | None:
    """Returns the options of every run that may hold collectives; None in a process alone."""
    if current() is None:
        return None
    options = tf.RunOptions()
    options.experimental.collective_graph_key = _GRAPH_KEY
    return options


def mesh(shape: mtf.Shape, layout: mtf.LayoutRules) -> CollectiveMesh:
    """Makes the mesh of the processes."""
    found = current()
    assert found is not None, "there are no other processes"
    return make_mesh_of_processes(
        shape, layout, found.workers.index, found.device, hint=found.hint
    )
