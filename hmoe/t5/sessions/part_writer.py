"""Writes one checkpoint from the parts that many processes hold, none of which holds the whole."""

from __future__ import annotations

from hmoe.compat.stack import tf
from hmoe.lowering import slice_variables
from hmoe.lowering.collective import CollectiveMesh
from hmoe.t5.sessions import processes


class PartWriter:
    """Writes the variables of the default graph together with the other processes of its mesh.

    Each process writes its parts to a file of its own; when all have, the first makes them one
    checkpoint of whole variables, in TensorFlow's format. All need one file system.

    Args:
      mesh_impl: the mesh.
    """

    def __init__(self, mesh_impl: CollectiveMesh):
        self._path = tf.placeholder(tf.string, [])
        files = {
            number: tf.strings.join(
                [self._path, f"_temp/part-{number:05d}-of-{mesh_impl.size:05d}"]
            )
            for number in range(mesh_impl.size)
            if number == 0 or _owns_parts(mesh_impl, number)
        }
        # The first process prepares the folder before it comes here.
        with tf.control_dependencies([_barrier(mesh_impl)]):
            own = files.get(mesh_impl.number)
            written = tf.no_op() if own is None else _save(own, _own_variables(mesh_impl))
        with tf.control_dependencies([written]):
            ready = _barrier(mesh_impl)
        with tf.control_dependencies([ready]):
            self._done = tf.no_op()
            if mesh_impl.number == 0:
                self._done = tf.raw_ops.MergeV2Checkpoints(
                    checkpoint_prefixes=tf.stack(list(files.values())),
                    destination_prefix=self._path,
                    delete_old_dirs=True,
                )
        mesh_impl.finish([self._done])

    def write(self, session: tf.Session, path: str) -> None:
        """Writes index and data of a checkpoint; only in the first process it is there afterwards.

        Args:
          session: the session that trains.
          path: its path prefix.
        """
        session.run(self._done, {self._path: path}, options=processes.run_options())


def _barrier(mesh_impl: CollectiveMesh) -> tf.Operation:
    """Returns an operation that is done when all processes have come to it."""
    axes = range(mesh_impl.ndims)
    ones = mesh_impl.LaidOutTensor([tf.ones([1])])
    return mesh_impl.allreduce(ones, axes, "SUM").one_slice.op


def _owns_parts(mesh_impl: CollectiveMesh, number: int) -> bool:
    return any(mesh_impl.is_first_with(shape, number) for shape in mesh_impl.variable_shapes)


def _own_variables(mesh_impl: CollectiveMesh) -> list[tf.Variable]:
    """Returns the variables that this process is to save: those that are whole go to the first."""
    whole = [v for v in tf.global_variables() if not slice_variables.part_of(v).spec]
    return [*mesh_impl.own_variables, *(whole if mesh_impl.number == 0 else [])]


def _save(path: tf.Tensor, variables: list[tf.Variable]) -> tf.Operation:
    parts = [slice_variables.part_of(variable) for variable in variables]
    return tf.raw_ops.SaveV2(
        prefix=path,
        tensor_names=[part.name for part in parts],
        shape_and_slices=[part.spec for part in parts],
        tensors=[variable.read_value() for variable in variables],
    )
