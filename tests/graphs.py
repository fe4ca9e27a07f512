"""Parts of the graphs and sessions that tests build by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hmoe.compat.stack import mtf, tf
from hmoe.lowering import collective
from hmoe.t5.sessions import processes
from tests import seeded

# Returns the value of a variable from its name and shape.
Values = Callable[[str, Sequence[int]], np.ndarray]


def quick_session() -> tf.Session:
    """Returns a session that does not optimize its graph, which takes longer than one run of it."""
    config = tf.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    config.graph_options.optimizer_options.opt_level = -1
    found = processes.current()
    if found is None:
        return tf.Session(config=config)
    return _SessionOfProcess(found.target, config=processes.session_config(config))


class _SessionOfProcess(tf.Session):
    """A session whose runs may hold collectives."""

    def run(self, fetches: Any, feed_dict: Any = None, **unused: Any) -> Any:
        """Runs a graph with the options that collectives need, if it can hold any.

        With them, a first run without collectives may wait for ever.
        """
        is_initializer = isinstance(fetches, tf.Operation) and fetches.name.startswith("init")
        options = None if is_initializer else processes.run_options()
        return super().run(fetches, feed_dict, options=options)


def read_variables_once() -> None:
    """Makes a step use the weights that it started from.

    Otherwise each use of a variable reads it anew, and a backward pass can meet weights that the
    optimizer has already updated.
    """
    tf.get_variable_scope().set_caching_device(lambda op: op.inputs[0].device)


def mtf_dims(dims: seeded.Dims) -> list[mtf.Dimension]:
    """Returns the dimensions with these names and sizes."""
    return [mtf.Dimension(name, size) for name, size in dims]


def constant(mesh: mtf.Mesh, value: np.ndarray, dims: Sequence[mtf.Dimension]) -> mtf.Tensor:
    """Returns an mtf tensor with these values, split as the layout says."""
    return mtf.import_tf_tensor(mesh, tf.constant(value), mtf.Shape(list(dims)))


def model_variables(graph: mtf.Graph) -> list[mtf.Variable]:
    """Returns the variables that are trained or balanced, without those of an optimizer."""
    return [
        v
        for v in graph.all_variables
        if v in graph.trainable_variables or v.name.endswith("balance_bias")
    ]


def load_weights(
    session: tf.Session, lowering: mtf.Lowering, values: Values = seeded.weights_of
) -> None:
    """Gives every variable of the model its value by name, on all devices."""
    for variable in model_variables(lowering.graph):
        if isinstance(lowering.variables[variable], collective.SliceVariable):
            _load_slice(session, lowering, variable, values)
            continue
        for master in _masters(variable):
            value = values(master.op.name, master.shape.as_list())
            master.load(value.astype(master.dtype.as_numpy_dtype), session)
    session.run(lowering.copy_masters_to_slices())


def _load_slice(
    session: tf.Session, lowering: mtf.Lowering, variable: mtf.Variable, values: Values
) -> None:
    """Gives a variable of which this process holds a slice its part of the value."""
    mesh_impl = lowering.mesh_impl(variable)
    begin = mesh_impl.slice_begin(variable.shape, mesh_impl.pnum)
    size = mesh_impl.slice_shape(variable.shape)
    whole = values(variable.name, variable.shape.to_integer_list)
    part = whole[tuple(slice(b, b + s) for b, s in zip(begin, size))]
    target = lowering.variables[variable].slice
    target.load(part.astype(target.dtype.as_numpy_dtype), session)


def _masters(variable: mtf.Variable) -> list[tf.Variable]:
    """Returns TensorFlow's variables; lowering stacks variables of one shape into one of ours."""
    if isinstance(variable, mtf.ops.StackedVariable):
        return variable._masters
    return [variable.get_master()]
