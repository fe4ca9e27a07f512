"""Saves and restores the variables that live on the slices of a mesh."""

from __future__ import annotations

import os

from hmoe.compat.stack import mtf, tf


def variable_saver(keep: int | None = None) -> tf.train.Saver:
    """Returns a saver of all variables of the default graph, which sessions restore with as well.

    Args:
      keep: number of checkpoints to keep; None for all.
    """
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
        self.to_masters = lowering.copy_slices_to_masters()
        self.to_slices = lowering.copy_masters_to_slices()
        self.saver = variable_saver(keep)

    def save(self, session: tf.Session, model_dir: str, step: int) -> str:
        """Writes `model_dir/model.ckpt-<step>` and returns its path."""
        session.run(self.to_masters)
        prefix = os.path.join(model_dir, "model.ckpt")
        return self.saver.save(session, prefix, global_step=step, write_meta_graph=False)
