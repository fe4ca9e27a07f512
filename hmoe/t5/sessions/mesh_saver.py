"""Saves and restores the variables that live on the slices of a mesh."""

from __future__ import annotations

from collections.abc import Callable

from hmoe.compat.stack import mtf, tf
from hmoe.lowering.collective import CollectiveMesh
from hmoe.storage import checkpoint_files, checkpoint_saving
from hmoe.t5.sessions import checkpoints, processes
from hmoe.t5.sessions.part_writer import PartWriter
from hmoe.t5.sessions.plain_paths import readable


def variable_saver(keep: int | None = None) -> tf.train.Saver:
    """Returns a saver of all variables of the default graph, which sessions restore with as well.

    Args:
      keep: number of checkpoints to keep; None for all.

    Raises:
      ValueError: none would be kept.
    """
    checkpoint_saving.check_keep(keep)
    saver = tf.train.Saver(
        tf.global_variables(),
        sharded=True,
        max_to_keep=keep,
        keep_checkpoint_every_n_hours=2,
        save_relative_paths=True,
    )
    tf.add_to_collection(tf.GraphKeys.SAVERS, saver)
    return saver


class MeshSaver:
    """Saves and restores the weights that a lowering keeps on the slices of its mesh.

    Args:
      lowering: the lowered graph.
      keep: number of checkpoints to keep; None for all.
    """

    def __init__(self, lowering: mtf.Lowering, keep: int | None = None):
        self._to_masters = lowering.copy_slices_to_masters()
        self.to_slices = lowering.copy_masters_to_slices()
        self.saver = variable_saver(keep)
        mesh_impl = next(iter(lowering.mesh_to_impl.values()))
        self._parts = PartWriter(mesh_impl) if isinstance(mesh_impl, CollectiveMesh) else None
        self._retention = checkpoint_saving.Retention(keep)

    def collect(self, session: tf.Session) -> None:
        """Copies the weights from the slices of the mesh to the variables that are saved."""
        session.run(self._to_masters)

    def save(
        self,
        session: tf.Session,
        model_dir: str,
        step: int,
        write_beside: Callable[[str], None] = lambda path: None,
    ) -> str:
        """Writes `model_dir/model.ckpt-<step>`, removes old checkpoints, and returns its path.

        The weights are those that `collect` has copied.

        Args:
          session: the session that trains.
          model_dir: the folder.
          step: the step.
          write_beside: writes more files of the checkpoint, given its path prefix.

        Raises:
          OSError: the files cannot be written.
        """
        if not processes.is_first():
            path = checkpoint_files.prefix(model_dir, step)
            self._write(session, path)
            return path
        # Not by the saver's own method, which takes folders and names of files for patterns, and
        # removes whatever files the file `checkpoint` lists.
        with checkpoint_saving.saving(model_dir, step, self._retention) as path:
            self._write(session, path)
            write_beside(path)
        return path

    def _write(self, session: tf.Session, path: str) -> None:
        if self._parts:
            self._parts.write(session, path)
            return
        saver = self.saver.saver_def
        session.run(saver.save_tensor_name, {saver.filename_tensor_name: path})

    def restore(self, session: tf.Session, path: str) -> None:
        """Reads the values of all variables from a checkpoint.

        Raises:
          ValueError: it is damaged; the message names its files.
        """
        saver = self.saver.saver_def
        source = {saver.filename_tensor_name: readable(path)}
        try:
            session.run(saver.restore_op_name, source)
        except (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.OutOfRangeError) as e:
            raise checkpoints.damaged(path, e) from e

    def scaffold(
        self, path: str | None, newer: Callable[[], str] | None = None
    ) -> tf.train.Scaffold:
        """Returns the scaffold of a session whose variables come from a checkpoint.

        Args:
          path: the checkpoint's path prefix; None to initialize the variables instead.
          newer: returns another checkpoint, if that one has been removed by then.
        """
        if path is None and self._parts:
            # One after another: of each, the whole is drawn before this process's part is cut.
            def initialize(scaffold: tf.train.Scaffold, session: tf.Session) -> None:
                for variable in tf.global_variables():
                    session.run(variable.initializer)

            return tf.train.Scaffold(saver=self.saver, init_op=tf.no_op(), init_fn=initialize)
        if path is None:
            return tf.train.Scaffold(saver=self.saver)

        def restore(scaffold: tf.train.Scaffold, session: tf.Session) -> None:
            try:
                self.restore(session, path)
            except checkpoints.RemovedError:
                if newer is None:
                    raise
                self.restore(session, newer())

        return tf.train.Scaffold(
            saver=self.saver,
            init_op=tf.no_op(),
            init_fn=restore,
        )
