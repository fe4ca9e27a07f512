"""This process among those that share the mesh of a run: its server, sessions and collectives.

TensorFlow's server cannot be stopped, so that a process is a worker of one run for as long as it
lives, and what is known about it stands here once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hmoe.compat.stack import mtf, tf
from hmoe.lowering.collective import CollectiveMesh
from hmoe.lowering.lower import make_mesh_of_processes
from hmoe.startup import answer_files
from hmoe.startup.errors import ProcessLostError, RunFailedError
from hmoe.startup.workers import Workers
from hmoe.t5.sessions.peer_watch import PeerWatch

JOB = "worker"
# By which TensorFlow knows which runs of sessions, in all processes, belong together.
_GRAPH_KEY = 1

# What a session raises when another process is gone, and hardly for another reason; beside these
# any error that TensorFlow has written this sentence into.
_LOST_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
    tf.errors.CancelledError,
)
_OF_COLLECTIVES = "Collective ops is aborted by"


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of a run, with this one's server.

    Attributes:
      workers: where they are.
      target: TensorFlow's address of this process's server.
      device: the device of this process's slice.
      hint: how collectives communicate: "auto" or "nccl".
      watch: watches the others; None if nobody does.
    """

    workers: Workers
    target: str
    device: str
    hint: str
    watch: PeerWatch | None = None

    @property
    def size(self) -> int:
        """The number of processes."""
        return len(self.workers.addresses)


_current: list[Processes] = []
# Kept, since a server ends with its object.
_servers: list[tf.train.Server] = []


def start(workers: Workers, on_loss: Callable[[str], None] | None = None) -> Processes:
    """Starts the server of this process, which lives as long as the process does.

    Args:
      workers: the processes.
      on_loss: called from a thread with a sentence when another process does not answer any more;
        it ends this process. None to watch nobody.

    Raises:
      RunFailedError: the server cannot be started.
    """
    tasks = {_task(workers, n): address for n, address in enumerate(workers.addresses)}
    cluster = tf.train.ClusterSpec({JOB: tasks})
    task = _task(workers, workers.index)
    config = _threads(_alone(tf.ConfigProto(), workers))
    try:
        server = tf.train.Server(cluster, job_name=JOB, task_index=task, config=config)
    except tf.errors.OpError as error:
        raise RunFailedError(
            f"process {workers.index} cannot serve at {workers.addresses[workers.index]}: "
            f"{error.message}"
        ) from error
    _servers.append(server)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    device = f"/job:{JOB}/replica:0/task:{task}/device:{'GPU' if on_gpu else 'CPU'}:0"
    watch = PeerWatch(workers, on_loss) if on_loss else None
    found = Processes(workers, server.target, device, "nccl" if on_gpu else "auto", watch)
    _current[:] = [found]
    return found


def current() -> Processes | None:
    """Returns the processes of this run; None if this process runs alone."""
    return _current[0] if _current else None


def is_first() -> bool:
    """Returns whether this process writes what is written once: it is alone, or the first."""
    found = current()
    return found is None or found.workers.is_first


def target(default: str) -> str:
    """Returns the address of the server that sessions run on, by default another one."""
    found = current()
    return default if found is None else found.target


def session_config(config: tf.ConfigProto) -> tf.ConfigProto:
    """Makes sessions see this process alone, and reach the others by collectives."""
    found = current()
    return config if found is None else _threads(_alone(config, found.workers))


def _task(workers: Workers, number: int) -> int:
    """Returns the number by which TensorFlow knows a process.

    TensorFlow orders the members of a collective by the names of their tasks, as text: task 10
    comes before task 2, and what is gathered would be in that order. So all numbers get as many
    digits: 12 processes are the tasks 100 to 111.
    """
    last = len(workers.addresses) - 1
    return number if last < 10 else 10 ** len(str(last)) + number


def _alone(config: tf.ConfigProto, workers: Workers) -> tf.ConfigProto:
    config.device_filters.append(f"/job:{JOB}/task:{_task(workers, workers.index)}")
    leader = _task(workers, 0)
    config.experimental.collective_group_leader = f"/job:{JOB}/replica:0/task:{leader}"
    return config


def _threads(config: tf.ConfigProto) -> tf.ConfigProto:
    """Shares the cores of a machine among the processes that `hmoe launch` starts on it."""
    local = int(os.environ.get("HMOE_LOCAL_PROCESSES", "1"))
    if local > 1:
        each = max(1, (os.cpu_count() or 1) // local)
        config.intra_op_parallelism_threads = each
        config.inter_op_parallelism_threads = each + 1
    return config


def run_options() -> tf.RunOptions | None:
    """Returns the options of a run that holds collectives; None in a process alone.

    All processes must make such runs alike: TensorFlow tells them apart by their count.
    """
    if current() is None:
        return None
    options = tf.RunOptions()
    options.experimental.collective_graph_key = _GRAPH_KEY
    return options


def mesh(shape: mtf.Shape, layout: mtf.LayoutRules) -> CollectiveMesh:
    """Makes the mesh of the processes.

    Raises:
      ValueError: it has another size than there are processes.
    """
    found = current()
    assert found is not None, "there are no other processes"
    if shape.size != found.size:
        sizes = ";".join(f"{dim.name}:{dim.size}" for dim in shape.dims)
        raise ValueError(
            f"the mesh {sizes!r} has {shape.size} slices and the run {found.size} processes; each "
            "process has one slice (utils.run.mesh_shape, --workers)"
        )
    index, device = found.workers.index, found.device
    return make_mesh_of_processes(shape, layout, index, device, hint=found.hint)


@contextlib.contextmanager
def noticing_loss() -> Iterator[None]:
    """Turns the error of a session whose peer is gone into one that names the process.

    An error that is this process's own, or that all have while none is gone, stays as it is.

    Raises:
      ProcessLostError: another process is gone.
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = current()
        is_of_others = isinstance(error, _LOST_ERRORS) or _OF_COLLECTIVES in str(error)
        sentence = found.watch.lost() if found and found.watch and is_of_others else None
        if sentence is None:
            raise
        raise ProcessLostError(sentence) from error


@contextlib.contextmanager
def writing_once(path: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that writes a line of answers to a file, in the first process alone."""
    if is_first():
        with answer_files.writing(path) as write:
            yield write
    else:
        yield lambda line: None


class SessionOfRun:
    """A session with hooks that ends at the first error, in one process or several.

    `MonitoredSession` would wait for a lost process, and then run steps again under other numbers.
    Nor is the session of one of several processes closed after an error: closing it would wait for
    what others are to send.

    Args:
      scaffold: initializes or restores the variables.
      hooks: the hooks.
      master: address of a server; "" for this process.
      config: TensorFlow's options.
    """

    def __init__(
        self,
        scaffold: tf.train.Scaffold,
        hooks: list[tf.train.SessionRunHook],
        master: str,
        config: tf.ConfigProto,
    ):
        if current() is not None:
            self._session = tf.train.SingularMonitoredSession(
                hooks, scaffold, target(master), session_config(config)
            )
        else:  # `CountingHook` refuses the second session, and knows the step
            creator = tf.train.ChiefSessionCreator(scaffold, master=master, config=config)
            self._session = tf.train.MonitoredSession(creator, hooks)

    def __enter__(self) -> SessionOfRun:
        self._session.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> bool | None:
        if error is not None and not isinstance(error, GeneratorExit) and current() is not None:
            return None
        with noticing_loss():
            return self._session.__exit__(kind, error, trace)

    def run(self, fetches: Any, feed: Mapping[tf.Tensor, Any] | None = None) -> Any:
        """Runs a graph that may hold collectives.

        Args:
          fetches: what to fetch.
          feed: values to take for tensors.

        Raises:
          ProcessLostError: another process is gone.
        """
        with noticing_loss():
            return self._session.run(fetches, feed, options=run_options())

    def run_alone(self, fetches: Any) -> Any:
        """Runs a part of the graph that holds no collective, whatever other processes run."""
        return self._session.run(fetches)

    def should_stop(self) -> bool:
        """Returns whether a hook has asked to stop."""
        return self._session.should_stop()
