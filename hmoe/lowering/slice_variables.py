"""Variables of which a process holds one slice, and which checkpoints hold whole.

TensorFlow saves and restores them as it does partitioned variables: a checkpoint has the whole
variable under its name, whichever processes have written its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hmoe.compat.stack import mtf, tf


class Part(NamedTuple):
    """The part of a whole variable that a variable of TensorFlow is.

    Attributes:
      name: name of the whole variable, under which it is saved.
      shape: shape of the whole variable.
      spec: TensorFlow's notation of shape and part, "" for the whole.
    """

    name: str
    shape: tuple[int, ...]
    spec: str


def make(
    variable: mtf.Variable,
    begin: Sequence[int],
    size: Sequence[int],
    cut: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Variable:
    """Makes the variable of a slice, in place of the whole one that Mesh TensorFlow has made.

    Args:
      variable: the variable of named dimensions.
      begin: where the slice begins, for each dimension.
      size: its size, for each dimension.
      cut: cuts the slice from a whole tensor.

    Returns:
      The slice, on the current device. Its initial value is cut from the whole one's, so that it is
      the same on every mesh; nothing else of the whole one is ever made.
    """
    whole = variable.get_master()
    _forget(whole)

    part = tf.get_variable(
        f"{variable.name}_slice",
        dtype=variable.slice_dtype,
        use_resource=True,
        initializer=lambda: tf.cast(cut(whole.initial_value), variable.slice_dtype),
        trainable=variable.trainable,
    )
    part._set_save_slice_info(
        tf.Variable.SaveSliceInfo(
            variable.name, variable.shape.to_integer_list, list(begin), list(size)
        )
    )
    return part


def part_of(variable: tf.Variable) -> Part:
    """Returns which part of which saved variable a variable of TensorFlow is."""
    info = variable._get_save_slice_info()
    if info is None:
        return Part(variable.op.name, tuple(variable.shape.as_list()), "")
    return Part(info.full_name, tuple(info.full_shape), info.spec if info.full_shape else "")


def _forget(variable: tf.Variable) -> None:
    """Takes a variable out of the graph's collections, so that it is never made."""
    graph = tf.get_default_graph()
    for name in graph.get_all_collection_keys():
        kept = [each for each in graph.get_collection_ref(name) if each is not variable]
        if len(kept) < len(graph.get_collection_ref(name)):
            graph.get_collection_ref(name)[:] = kept
