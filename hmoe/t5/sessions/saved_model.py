"""Exports a SavedModel for serving."""

from __future__ import annotations

import itertools
import os
import time

from hmoe.compat.stack import tf
from hmoe.t5.graphs.decoding import DecodingGraph
from hmoe.t5.sessions import architecture_check
from hmoe.t5.sessions.mesh_saver import MeshSaver
from hmoe.t5.sessions.serving import ServingGraph
from hmoe.t5.sessions.session_settings import SessionSettings

# What a program does with an exported model; the test of the command runs it as it is printed.
_EXAMPLE = """\
import tensorflow as tf
{more}
model = tf.saved_model.load({folder!r}).signatures["serving_default"]
print(model({arguments})[{output!r}].numpy())"""


def export(
    session: SessionSettings,
    graph: DecodingGraph,
    serving: ServingGraph,
    path: str,
    export_dir: str,
) -> str:
    """Exports the default graph with the weights of a checkpoint.

    Args:
      session: settings of the session.
      graph: the model's graph, in the default graph.
      serving: the inputs and outputs of the exported model.
      path: the checkpoint's path prefix.
      export_dir: the folder in which a folder named by the time is made.

    Returns:
      The new folder, which appears when it is whole.

    Raises:
      ValueError: the checkpoint does not match the model.
    """
    saver = MeshSaver(graph.lowering)
    architecture_check.check_matches(path, with_optimizer=False)
    unfinished = os.path.join(export_dir, f"unfinished-{os.getpid()}-{time.time_ns()}")
    try:
        with tf.Session(graph=tf.get_default_graph(), config=session.config()) as tf_session:
            saver.restore(tf_session, path)
            tf_session.run([tf.tables_initializer(), saver.to_slices])
            _write(tf_session, unfinished, serving, saver)
        return _move_into_place(unfinished, export_dir)
    except BaseException:
        if tf.io.gfile.exists(unfinished):
            tf.io.gfile.rmtree(unfinished)
        raise


def _move_into_place(unfinished: str, export_dir: str) -> str:
    """Renames a folder to the time in seconds, or to the next number that is not taken."""
    for number in itertools.count(int(time.time())):
        folder = os.path.join(export_dir, str(number))
        if tf.io.gfile.exists(folder):
            continue
        try:
            tf.io.gfile.rename(unfinished, folder)
        except tf.errors.OpError:
            # Another export may have taken the number meanwhile.
            if not tf.io.gfile.exists(folder):
                raise
            continue
        return folder
    raise AssertionError("numbers do not end")


def example(folder: str, serving: ServingGraph, needs_text: bool) -> str:
    """Returns a program that loads an exported model and uses it.

    Args:
      folder: the folder of the model.
      serving: the inputs and outputs of the model.
      needs_text: whether its operations are of `tensorflow_text`.
    """
    arguments = ", ".join(f'{name}=tf.constant(["a line", "another"])' for name in serving.texts)
    more = "import tensorflow_text  # the operations of the vocabulary\n" if needs_text else ""
    output = "scores" if "scores" in serving.outputs else "outputs"
    return _EXAMPLE.format(
        more=more, folder=os.path.abspath(folder), arguments=arguments, output=output
    )


def _write(session: tf.Session, folder: str, serving: ServingGraph, saver: MeshSaver) -> None:
    """Writes the SavedModel, which copies its weights onto the mesh's slices when it is loaded."""
    signature = tf.saved_model.predict_signature_def(serving.texts, serving.outputs)
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
