"""The graph of an exported model: text in, answers or scores out, for any number of rows.

A model's graph has a batch of fixed size. An exported one runs it in a loop over as many batches as
the rows need, the last one filled up with padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import seqio
from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.t5.graphs.decoding import DecodingGraph
from hmoe.t5.graphs.model_settings import SCORE, Mode, ModelSettings

# White space as Python's `str.strip` knows it, which `tf.strings.strip` does not in full.
_SPACE = (
    r"[\t-\r\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}"
    r"\x{3000}]+"
)


def feature_names(settings: ModelSettings, mode: Mode) -> tuple[str, ...]:
    """Returns the texts that an exported model takes: what T5's own exported models take."""
    if mode != SCORE:
        return ("inputs",)
    return ("targets",) if settings.model_type == "lm" else ("inputs", "targets")


def on_this_process(settings: ModelSettings) -> ModelSettings:
    """Returns settings whose slices are on devices of the process that loads the model.

    The servers that a model was trained over are not there when it is exported and used.
    """
    devices = [
        tf.DeviceSpec.from_string(device).replace(job=None, replica=None, task=None).to_string()
        for device in settings.mesh_devices
    ]
    return dataclasses.replace(settings, mesh_devices=devices)


def placeholders(settings: ModelSettings, mode: Mode) -> dict[str, tf.Tensor]:
    """Returns placeholders of ids int32 [batch, length], by feature, to build the model from."""
    return {
        name: tf.placeholder(
            tf.int32, [settings.batch_size, settings.sequence_length[name]], f"batch_{name}"
        )
        for name in feature_names(settings, mode)
    }


class ServingGraph(NamedTuple):
    """Inputs and outputs of an exported model.

    Attributes:
      texts: strings [rows] to feed, by name.
      outputs: a row for each of them: text "inputs" and "outputs", or text "targets" and float32
        "scores"; by name.
    """

    texts: dict[str, tf.Tensor]
    outputs: dict[str, tf.Tensor]


def build(
    settings: ModelSettings, mode: Mode, features: dict[str, tf.Tensor], graph: DecodingGraph
) -> ServingGraph:
    """Builds the loop over batches around a model's graph, in the same TensorFlow graph.

    Args:
      settings: the model's settings.
      mode: PREDICT or SCORE.
      features: the placeholders that the model's graph was built from.
      graph: the model's graph.
    """
    texts = {name: tf.placeholder(tf.string, [None], name) for name in features}
    stripped = {name: _stripped(text) for name, text in texts.items()}
    num_rows = tf.shape(next(iter(texts.values())))[0]
    size = settings.batch_size
    # At least one batch, which is all padding if there are no rows.
    num_batches = tf.maximum(1, (num_rows + size - 1) // size)
    ids = [
        tf.reshape(
            _encoded(settings, name, text, num_batches * size),
            [num_batches, size, settings.sequence_length[name]],
        )
        for name, text in stripped.items()
    ]
    names = list(graph.predictions)
    run_batch = _as_function(list(features.values()), [graph.predictions[name] for name in names])
    results = tf.map_fn(
        lambda batch: tuple(run_batch(*batch)),
        tuple(ids),
        fn_output_signature=tuple(graph.predictions[name].dtype for name in names),
        parallel_iterations=1,
    )
    outputs = {
        name: _decoded(settings, name, graph.predictions[name].shape, value)[:num_rows]
        for name, value in zip(names, results)
    }
    if mode != SCORE and outputs["outputs"].dtype == tf.string:
        is_blank = tf.equal(stripped["inputs"], "")
        outputs["outputs"] = tf.where(is_blank, stripped["inputs"], outputs["outputs"])
    return ServingGraph(texts, outputs)


def _stripped(text: tf.Tensor) -> tf.Tensor:
    """Returns texts without white space around them, as a model reads lines."""
    return tf.strings.regex_replace(text, f"^{_SPACE}|{_SPACE}$", "")


def needs_tensorflow_text(settings: ModelSettings) -> bool:
    """Returns whether a vocabulary is SentencePiece's, whose operations are in a library."""
    both = (_vocabulary(settings, "inputs"), _vocabulary(settings, "targets"))
    return any(isinstance(vocabulary, seqio.SentencePieceVocabulary) for vocabulary in both)


def _vocabulary(settings: ModelSettings, name: str) -> seqio.Vocabulary:
    of = utils.inputs_vocabulary if name == "inputs" else utils.targets_vocabulary
    return of(settings.vocabulary)


def _encoded(settings: ModelSettings, name: str, text: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
    """Returns ids int32 [total, length] of texts [rows], as `hmoe predict` and `hmoe score` do.

    The rows after the texts are padding.
    """
    vocabulary, length = _vocabulary(settings, name), settings.sequence_length[name]
    # A language model continues its input, which must not end.
    ends = [] if settings.model_type == "lm" and name == "inputs" else [vocabulary.eos_id]

    def encode(line: tf.Tensor) -> tf.Tensor:
        ids = tf.concat([tf.cast(vocabulary.encode_tf(line), tf.int32), ends], 0)[:length]
        ids = tf.pad(ids, [[0, length - tf.shape(ids)[0]]])
        ids.set_shape([length])
        return ids

    num_rows = tf.shape(text)[0]
    filled = tf.concat([text, tf.fill([total - num_rows], "")], 0)
    dataset = tf.data.Dataset.from_tensor_slices(filled).map(encode)
    ids = tf.data.experimental.get_single_element(dataset.batch(tf.cast(total, tf.int64)))
    return tf.where(tf.range(total) < num_rows, ids, tf.zeros_like(ids))


def _decoded(
    settings: ModelSettings, name: str, shape: tf.TensorShape, value: tf.Tensor
) -> tf.Tensor:
    """Returns the text of ids [batches, batch, length], and other values, one for each row."""
    value = tf.reshape(value, [-1, *shape.as_list()[1:]])
    if name == "scores":
        return value
    vocabulary = _vocabulary(settings, "inputs" if name == "inputs" else "targets")
    return vocabulary.decode_tf(value) if hasattr(vocabulary, "decode_tf") else value


def _as_function(
    inputs: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor]
) -> Callable[..., list[tf.Tensor]]:
    """Turns the part of a graph between tensors into a function, which a loop can call.

    It shares the variables of the graph. Variables cannot be made inside a loop, so the model's
    graph cannot be built there.
    """
    graph = outputs[0].graph
    part = tf.graph_util.extract_sub_graph(
        graph.as_graph_def(), [tensor.op.name for tensor in outputs]
    )
    handles = [node.name for node in part.node if node.op == "VarHandleOp"]
    outside = {*handles, *(tensor.op.name for tensor in inputs)}
    kept = [node for node in part.node if node.name not in outside]
    del part.node[:]
    part.node.extend(kept)
    shared = {name: graph.get_tensor_by_name(f"{name}:0") for name in handles}

    def run(*values: tf.Tensor) -> list[tf.Tensor]:
        function = tf.get_default_graph()
        mapped = {name: function.capture(handle) for name, handle in shared.items()}
        mapped.update({tensor.name: value for tensor, value in zip(inputs, values)})
        return tf.import_graph_def(
            part, input_map=mapped, return_elements=[tensor.name for tensor in outputs], name=""
        )

    # `tf.function` would order operations by control inputs that do not go well with the loops of
    # decoding.
    return tf.wrap_function(run, [tf.TensorSpec(value.shape, value.dtype) for value in inputs])
