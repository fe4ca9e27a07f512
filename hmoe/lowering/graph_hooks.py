"""Hooks on private parts of TensorFlow and Mesh TensorFlow, each for as long as a graph is lowered.

`hmoe.compat.patches` lists what is replaced. The rest of this module reads what a TensorFlow graph
keeps to itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from hmoe.compat import patches
from hmoe.compat.stack import tf


@contextlib.contextmanager
def creating(graph: tf.Graph, create_by: Callable) -> Iterator[None]:
    """Within it, a function makes the new operations of a graph; contexts may be nested.

    Args:
      graph: a `tf.Graph`.
      create_by: called as `create_by(create, op_type, inputs, **keywords)`; returns an
        operation. `create(op_type, inputs, **keywords)` makes one. The keywords include "name"
        and "attrs", the values of attributes by their names.
    """

    def create(
        op_type: str,
        inputs: Sequence[tf.Tensor],
        dtypes: object = None,
        input_types: object = None,
        name: str | None = None,
        attrs: object = None,
        op_def: object = None,
        compute_device: bool = True,
    ) -> tf.Operation:
        return create_by(
            before,
            op_type,
            inputs,
            dtypes=dtypes,
            input_types=input_types,
            name=name,
            attrs=attrs,
            op_def=op_def,
            compute_device=compute_device,
        )

    before = graph._create_op_internal
    with patches.CREATE_OPERATION.replaced_by(create, on=graph):
        yield


@contextlib.contextmanager
def aligning(align: Callable) -> Iterator[None]:
    """Within it, Mesh TensorFlow aligns slices for TensorFlow's broadcasting by a function.

    Args:
      align: called as `align(x, input_shape, output_shape)`, with a slice, its dimensions and those
        to align it with; returns the slice.
    """
    with patches.EXPAND_DIMS.replaced_by(align):
        yield


def create(
    graph: tf.Graph, op_type: str, inputs: Sequence[tf.Tensor], **keywords: object
) -> tf.Operation:
    """Makes an operation from the keywords that `creating` hands on.

    Does what `tf.Graph.create_op` does, which spends more time on its deprecated arguments.
    """
    return graph._create_op_internal(op_type, inputs, **keywords)


def is_plain(graph: tf.Graph) -> bool:
    """Returns whether type, inputs, attributes and device names would determine a new operation.

    They do not inside loops, control dependencies and the like.
    """
    return (
        loop(graph) is None
        and not graph._control_dependencies_stack
        and not list(graph._colocation_stack.peek_objs())
        and None not in devices(graph)
    )


def surroundings(graph: tf.Graph) -> tuple:
    """Returns what is equal where a new operation would be placed, ordered and nested alike."""
    return (
        *devices(graph),
        loop(graph),
        *map(id, graph._control_dependencies_stack),
        *map(id, graph._colocation_stack.peek_objs()),
    )


def devices(graph: tf.Graph) -> list[str | None]:
    """Returns names of devices around a new operation; None for a function that chooses one."""
    names = [spec.raw_string for spec in graph._device_function_stack.peek_objs()]
    return [name for name in names if name != ""]


def loop(graph: tf.Graph) -> int | None:
    """Returns a number of the loop or condition that new operations are inside; None outside."""
    context = graph._get_control_flow_context()
    return None if context is None else id(context)


def while_loops(graph: tf.Graph) -> list[str]:
    """Returns names of the while loops that new operations are inside, outermost first."""
    names: list[str] = []
    context = graph._get_control_flow_context()
    while context is not None:
        # Conditions have contexts of their own, and so has the program of a TPU.
        if context.IsWhileContext():
            names.insert(0, context.name)
        context = context.outer_context
    return names


def replace_input(operation: tf.Operation, index: int, tensor: tf.Tensor) -> None:
    """Makes an operation read another tensor of the same type and shape."""
    operation._update_input(index, tensor)
