"""Small objects of other packages, on which attributes that only instances have can be seen."""

from __future__ import annotations

from typing import Any

from hmoe.compat.stack import mtf, tf


def layout_rules() -> Any:
    """Returns layout rules with one rule."""
    return mtf.LayoutRules([("batch", "rows")])


def layer_stack() -> Any:
    """Returns a stack of no layers."""
    from mesh_tensorflow.transformer import transformer

    return transformer.LayerStack([])


def scaled() -> Any:
    """Returns the operation that multiplies a tensor by a number."""
    return mtf.ops.ScalarMultiplyOperation(_tensor(), 2.0)


def shifted() -> Any:
    """Returns the operation that adds a number to a tensor."""
    return mtf.ops.ScalarAddOperation(_tensor(), 2.0)


def operation() -> Any:
    """Returns an operation of named dimensions."""
    return _tensor().operation


def loop() -> Any:
    """Returns a loop that adds 1 to a tensor."""
    some = _tensor()
    looped = mtf.while_loop(lambda x: mtf.less(mtf.reduce_sum(x), 5.0), lambda x: [x + 1.0], [some])
    return looped[0].operation


def custom_gradient() -> Any:
    """Returns an operation with a gradient of its own."""
    found = mtf.custom_gradient(lambda x: x * 2.0, lambda *unused: [None], [_tensor()])
    return (found[0] if isinstance(found, (list, tuple)) else found).operation


def depend() -> Any:
    """Returns the operation that makes a tensor wait for another."""
    return mtf.depend(_tensor(), []).operation


def reduction() -> Any:
    """Returns the operation that sums a tensor."""
    return mtf.ops.ReduceOperation(_tensor(), mtf.Shape([]), "SUM")


def laid_out_variable() -> Any:
    """Returns a variable on a mesh of one device."""
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        variable = mtf.get_variable(mesh, "v", mtf.Shape([mtf.Dimension("width", 2)]))
        placed = mtf.placement_mesh_impl.PlacementMeshImpl("rows:1", "", [""])
        return placed.LaidOutVariable(variable.operation, placed)


def graph() -> tf.Graph:
    """Returns an empty graph."""
    return tf.Graph()


def device() -> Any:
    """Returns an entry of a graph's stack of devices."""
    with tf.Graph().as_default() as empty, tf.device("/cpu:0"):
        return next(iter(empty._device_function_stack.peek_objs()))


def registry() -> Any:
    """Returns gin's map of names."""
    from gin import config

    return config._REGISTRY


def configurable() -> Any:
    """Returns gin's entry of a function that is configurable."""
    from gin import config
    from mesh_tensorflow.transformer import utils  # noqa: F401  (registers it)

    return config._REGISTRY.get_match("utils.run")


def locale() -> Any:
    """Returns Babel's data of a language."""
    import babel

    return babel.Locale("de")


def _tensor() -> Any:
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    shape = mtf.Shape([mtf.Dimension("width", 2)])
    with tf.Graph().as_default():
        return mtf.import_tf_tensor(mesh, tf.zeros([2]), shape)
