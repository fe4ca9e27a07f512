"""Takes the sums of steps from a mesh whose steps a host cannot watch one by one."""

from __future__ import annotations

from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions.run_metrics import HostSums


class LoopSums:
    """Reads the totals of a `SumVariable` and sets it to zeros, between two loops of steps.

    Args:
      graph: the graph of a step, in the default graph, which adds up its sums.

    Raises:
      ValueError: it does not.
    """

    def __init__(self, graph: TrainingGraph):
        if graph.added_up is None:
            raise ValueError("the graph adds up no sums; build it with add_up_sums=True")
        self._split = graph.added_up.split
        master = graph.added_up.variable.get_master()
        on_mesh = graph.lowering.variables[graph.added_up.variable]
        self._to_master = on_mesh.copy_slices_to_master
        self._to_slices = on_mesh.copy_master_to_slices
        with mtf.utils.outside_all_rewrites():
            # The value as it is when this is run, not the one that a step reads once.
            self._read = master.read_value()
            self._reset = tf.assign(master, tf.zeros_like(master))

    @property
    def operations(self) -> list[tf.Operation]:
        """What `take` runs, in this order."""
        return [self._to_master, self._read.op, self._reset.op, self._to_slices]

    def take(self, session: tf.Session) -> HostSums:
        """Returns the totals of the steps since the last call, and begins anew.

        Args:
          session: the session that trains; no step may run meanwhile.
        """
        # Apart, since the operations of the mesh do not wait for one another.
        session.run(self._to_master)
        totals = session.run(self._read)
        session.run(self._reset)
        session.run(self._to_slices)
        return self._split(totals)
