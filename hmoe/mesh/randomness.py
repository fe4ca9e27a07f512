"""Random numbers that depend on neither the layout nor the process.

Mesh TensorFlow draws each slice with a seed of its own, made from Python's salted
hash, so its numbers change with the layout and from run to run. Here numbers are
drawn for the whole tensor from (seed, what for, step, microbatch), and each device
takes its slice. They are the same under XLA, which compiles the graph on a TPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from hmoe.compat import patches
from hmoe.compat.stack import mtf, tf

_microbatch: ContextVar[mtf.Tensor | None] = ContextVar("microbatch", default=None)


@contextlib.contextmanager
def microbatch(number: mtf.Tensor) -> Iterator[None]:
    """Makes drawn numbers depend on `number` too, a scalar int32 `mtf.Tensor`."""
    token = _microbatch.set(number)
    try:
        yield
    finally:
        _microbatch.reset(token)


@dataclasses.dataclass(frozen=True)
class RandomSource:
    """A named stream of random numbers.

    Attributes:
      seed: the seed of the run.
      path: the use of the numbers; different paths have independent numbers.
      alike: name of a dimension; all indices of the dimensions before it get the same numbers.
        None: each element has a number of its own.
    """

    seed: int
    path: str = ""
    alike: str | None = None

    @property
    def key(self) -> int:
        """The key of the stream for a generator of random bits, of 64 bits."""
        name = f"{self.seed}/{self.path}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")

    def named(self, name: str) -> RandomSource:
        """Returns the stream of a named part."""
        return dataclasses.replace(self, path=f"{self.path}/{name}")

    def alike_before(self, dimension: str) -> RandomSource:
        """Returns the stream whose numbers differ only along this dimension and those after it."""
        return dataclasses.replace(self, alike=dimension)

    def uniform(self, mesh: mtf.Mesh, shape: mtf.Shape, dtype: tf.DType = tf.float32) -> mtf.Tensor:
        """Draws numbers in [0, 1), different at each global step and in each microbatch."""
        shape = mtf.convert_to_shape(shape)
        names = shape.dimension_names
        if self.alike not in names:
            return StatelessUniformOperation(mesh, shape, dtype, self).outputs[0]
        own = mtf.Shape(shape.dims[names.index(self.alike) :])
        return mtf.broadcast(StatelessUniformOperation(mesh, own, dtype, self).outputs[0], shape)

    def dropout(self, x: mtf.Tensor, rate: float) -> mtf.Tensor:
        """Sets a share `rate` of the elements to 0 and scales the others up."""
        if rate == 0.0:
            return x
        keep = mtf.cast(mtf.less(self.uniform(x.mesh, x.shape), 1.0 - rate), x.dtype)
        return x * keep / (1.0 - rate)


class StatelessUniformOperation(mtf.Operation):
    """Uniform numbers for a tensor of any layout, the same on every layout."""

    def __init__(self, mesh: mtf.Mesh, shape: mtf.Shape, dtype: tf.DType, source: RandomSource):
        """Adds the operation; inside `microbatch` it takes its number as an input."""
        number = _microbatch.get()
        inputs = [] if number is None else [number]
        super().__init__(inputs, mesh=mesh, name="stateless_uniform")
        self._dtype = dtype
        self._source = source
        self._outputs = [mtf.Tensor(self, mtf.convert_to_shape(shape), dtype)]
        self._splittable_dims, self._unsplittable_dims = (
            self._initialize_all_dimensions_as_splittable()
        )

    @property
    def has_gradient(self) -> bool:
        """Always False."""
        return False

    def lower(self, lowering: mtf.Lowering) -> None:
        """Draws the whole tensor on every device and keeps the device's slice."""
        mesh_impl = lowering.mesh_impl(self)
        shape = self.outputs[0].shape
        axes = mesh_impl.tensor_layout(shape).tensor_axis_to_mesh_axis
        slice_shape = mesh_impl.slice_shape(shape)
        split = [axis for axis in axes if axis is not None]
        coordinates = [mesh_impl.laid_out_pcoord(axis) for axis in split]

        def cut(whole: tf.Tensor, *numbers: tf.Tensor) -> tf.Tensor:
            where = dict(zip(split, numbers))
            begin = [
                0 if axis is None else where[axis] * size for axis, size in zip(axes, slice_shape)
            ]
            return tf.slice(whole, begin, slice_shape)

        # Apart from the cut, so that an engine can draw once for devices that are one.
        drawn = mesh_impl.slicewise(self._draw_whole, *(lowering.tensors[x] for x in self.inputs))
        if split:
            drawn = mesh_impl.slicewise(cut, drawn, *coordinates)
        lowering.set_tensor_lowering(self.outputs[0], drawn)

    def _draw_whole(self, *numbers: tf.Tensor) -> tf.Tensor:
        # Casting a variable to its own type returns the variable; identity reads it, once.
        step = tf.train.get_global_step()
        count = tf.constant(0, tf.int64) if step is None else tf.identity(tf.cast(step, tf.int64))
        if self.inputs:
            # Steps stay far below 2 ** 40, so no two (step, microbatch) meet.
            count = count + tf.cast(numbers[0], tf.int64) * 2**40
        shape = self.outputs[0].shape.to_integer_list
        return tf.cast(_uniform(shape, self._source.key, count), self._dtype)


def _uniform(shape: list[int], key: int, count: tf.Tensor) -> tf.Tensor:
    """Draws multiples of 2 ** -23 in [0, 1), to the bit the same with and without XLA.

    The bits are those of Philox, by its name: TensorFlow would choose another algorithm on another
    device. They become numbers here, since XLA makes other floats of them than TensorFlow does.

    Args:
      shape: shape of the result.
      key: the key of the stream, an unsigned integer of 64 bits.
      count: int64 [], different for each draw of the stream.

    Returns:
      float32 of that shape.
    """
    # Philox counts blocks of numbers in the low word, so draws of two counts share none.
    counter = tf.stack([tf.constant(0, tf.uint64), tf.cast(count, tf.uint64)])
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.constant(shape, tf.int32),
        key=tf.constant([key], tf.uint64),
        counter=counter,
        alg=int(tf.random.Algorithm.PHILOX.value),
        dtype=tf.uint32,
    )
    # The 23 highest bits become the fraction of a float of which the exponent makes 1 to 2.
    fraction = tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32))
    from_one = tf.bitwise.bitwise_or(fraction, tf.constant(0x3F800000, tf.uint32))
    return tf.bitcast(from_one, tf.float32) - 1.0


@contextlib.contextmanager
def layout_independent_dropout(seed: int = 0) -> Iterator[None]:
    """Makes Mesh TensorFlow's own dropout draw from a `RandomSource` while the context is open.

    Streams are numbered in the order in which the model is built, which follows the code and is
    the same on every layout.
    """
    built = [0]

    def random_uniform(
        mesh: mtf.Mesh,
        shape: mtf.Shape,
        minval: float = 0.0,
        maxval: float = 1.0,
        dtype: tf.DType = tf.float32,
        **unused: Any,
    ) -> mtf.Tensor:
        built[0] += 1
        path = f"{tf.get_variable_scope().name}/random_{built[0]}"
        numbers = RandomSource(seed, path).uniform(mesh, shape, dtype)
        return numbers if (minval, maxval) == (0.0, 1.0) else (numbers * (maxval - minval) + minval)

    with patches.RANDOM_UNIFORM.replaced_by(random_uniform):
        yield
