"""Exports a SavedModel for serving."""

from __future__ import annotations

import os
import time

from hmoe.compat.stack import tf
from hmoe.t5.graphs.decoding import DecodingGraph
from hmoe.t5.sessions import architecture_check
from hmoe.t5.sessions.estimator_protocol import ServingInputReceiver
from hmoe.t5.sessions.mesh_saver import MeshSaver
from hmoe.t5.sessions.session_settings import SessionSettings


def export(
    session: SessionSettings,
    graph: DecodingGraph,
    receiver: ServingInputReceiver,
    path: str,
    export_dir: str,
) -> str:
    """Exports the default graph with the weights of a checkpoint.

    Args:
      session: settings of the session.
      graph: built from `receiver.features` in the default graph.
      receiver: the inputs of the exported model.
      path: the checkpoint's path prefix.
      export_dir: the folder in which a folder named by the time is made.

    Returns:
      The new folder.

    Raises:
      ValueError: the checkpoint does not match the model.
    """
    saver = MeshSaver(graph.lowering)
    architecture_check.check_matches(path, with_optimizer=False)
    folder = os.path.join(export_dir, str(int(time.time())))
    with tf.Session(graph=tf.get_default_graph(), config=session.config()) as tf_session:
        saver.restore(tf_session, path)
        tf_session.run([tf.tables_initializer(), saver.to_slices])
        _write(tf_session, folder, receiver, graph.predictions, saver)
    return folder


def _write(
    session: tf.Session,
    folder: str,
    receiver: ServingInputReceiver,
    predictions: dict[str, tf.Tensor],
    saver: MeshSaver,
) -> None:
    """Writes the SavedModel, which copies its weights onto the mesh's slices when it is loaded."""
    signature = tf.saved_model.predict_signature_def(receiver.receiver_tensors, predictions)
    builder = tf.saved_model.Builder(folder)
    builder.add_meta_graph_and_variables(
        session,
        [tf.saved_model.tag_constants.SERVING],
        signature_def_map={
            tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature
        },
        main_op=tf.group(tf.tables_initializer(), saver.to_slices, name="to_slices"),
        saver=saver.saver,
        strip_default_attrs=True,
    )
    builder.save()
