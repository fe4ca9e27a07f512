"""Random numbers that depend on neither the layout nor the process."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from tensorflow.python.compiler.xla import xla

from hmoe.compat.stack import mtf, tf
from hmoe.mesh import randomness
from hmoe.mesh.randomness import RandomSource
from tests import graphs, meshes

LAYOUTS = [
    ("", ""),
    ("rows:2", "a:rows"),
    ("rows:2;cols:3", "a:rows;b:cols"),
    ("rows:2;cols:3", "b:cols"),
    ("rows:2;cols:2", "a:cols;c:rows"),
]


def draw(build, mesh_shape="", layout="", steps=(0,)):
    """Values of `build(mesh)`, [4, 9, 6], at each global step."""
    with tf.Graph().as_default():
        step = tf.train.create_global_step()
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        numbers = build(mesh)
        lowering = meshes.lower(mesh, mesh_shape, layout)
        exported = lowering.export_to_tf_tensor(numbers)
        with graphs.quick_session() as session:
            session.run(tf.global_variables_initializer())
            values = []
            for number in steps:
                step.load(number, session)
                values.append(session.run(exported))
    return values


SHAPE = graphs.mtf_dims([("a", 4), ("b", 9), ("c", 6)])


def uniform(seed=0, path="x"):
    return lambda mesh: RandomSource(seed, path).uniform(mesh, mtf.Shape(SHAPE))


@pytest.mark.parametrize(("mesh_shape", "layout"), LAYOUTS)
def test_numbers_do_not_depend_on_the_layout(mesh_shape, layout):
    alone = draw(uniform(), steps=(0, 3))
    many = draw(uniform(), mesh_shape, layout, steps=(0, 3))
    np.testing.assert_array_equal(alone, many)


def philox(key, count, size):
    """The bits of Philox4x32-10 (Salmon 2011) in plain integers: uint32 [size]."""
    words = []
    for block in range(-(-size // 4)):
        a, b, c, d = block, 0, count & 0xFFFFFFFF, count >> 32
        low, high = key & 0xFFFFFFFF, key >> 32
        for _ in range(10):
            first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
            a, b = (second >> 32) ^ b ^ low, second & 0xFFFFFFFF
            c, d = (first >> 32) ^ d ^ high, first & 0xFFFFFFFF
            low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
        words += [a, b, c, d]
    return np.array(words[:size], np.uint32)


def test_numbers_are_those_of_philox():
    # A known answer of the algorithm's authors, for a key and a counter of zeros.
    assert [hex(x) for x in philox(0, 0, 4)] == [
        "0x6627e8d5",
        "0xe169c58d",
        "0xbc57ac4c",
        "0x9b00dbd8",
    ]
    source = RandomSource(3, "encoder/outer")
    for step, values in zip((0, 5), draw(uniform(3, "encoder/outer"), steps=(0, 5))):
        bits = philox(source.key, step, values.size)
        np.testing.assert_array_equal(values.ravel(), (bits >> 9) * 2.0**-23)


def test_xla_draws_the_same_numbers():
    with tf.Graph().as_default():
        count = tf.placeholder(tf.int64, [])

        def numbers():
            return randomness._uniform([3, 5, 7], RandomSource(0, "x").key, count)

        fetches = (numbers(), xla.compile(numbers)[0])
        with tf.Session() as session:
            for step in (0, 2**40 + 3):
                plain, compiled = session.run(fetches, {count: step})
                np.testing.assert_array_equal(plain, compiled)


def test_numbers_are_uniform_and_change_with_step_seed_and_path():
    values = draw(uniform(), steps=(0, 1, 2))
    others = [*values, *draw(uniform(seed=1)), *draw(uniform(path="y"))]
    for number, one in enumerate(others):
        assert one.min() >= 0
        assert one.max() < 1
        assert abs(one.mean() - 0.5) < 0.08
        for other in others[:number]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.25
            assert np.abs(one - other).max() > 0.5


def test_numbers_change_with_the_microbatch():
    def of(number):
        def build(mesh):
            with randomness.microbatch(mtf.constant(mesh, number, dtype=tf.int32)):
                return RandomSource(0, "x").uniform(mesh, mtf.Shape(SHAPE))

        return build

    first, second = draw(of(0), steps=(0, 1)), draw(of(1), steps=(0, 1))
    np.testing.assert_array_equal(first, draw(uniform(), steps=(0, 1)))
    for one in first:
        for other in second:
            assert np.abs(one - other).max() > 0.5
    np.testing.assert_array_equal(second, draw(of(1), "rows:2;cols:3", "a:rows;b:cols", (0, 1)))


def test_dropout_keeps_the_mean_and_drops_the_share():
    def build(mesh):
        ones = mtf.ones(mesh, mtf.Shape(SHAPE))
        return RandomSource(0, "x").dropout(ones, 0.25)

    kept = draw(build)[0]
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((kept == 0).mean() - 0.25) < 0.1


def dropped(mesh):
    with randomness.layout_independent_dropout(seed=5):
        return mtf.dropout(mtf.ones(mesh, mtf.Shape(SHAPE)), is_training=True, keep_prob=0.75)


def test_dropout_of_mesh_tensorflow_does_not_depend_on_the_layout():
    alone = draw(dropped)[0]
    assert 0 < (alone == 0).mean() < 0.5
    for mesh_shape, layout in LAYOUTS[1:3]:
        np.testing.assert_array_equal(alone, draw(dropped, mesh_shape, layout)[0])


def test_outside_dropout_of_mesh_tensorflow_is_its_own():
    before = mtf.ops.random_uniform
    with pytest.raises(KeyError), randomness.layout_independent_dropout():
        raise KeyError
    assert mtf.ops.random_uniform is before


PROGRAM = """
from tests.mesh import test_randomness as t
print([round(float(x), 6) for x in t.draw(t.uniform(seed=3, path="encoder/outer"))[0].ravel()[:5]])
"""


def test_numbers_are_the_same_in_another_process():
    expected = [round(float(x), 6) for x in draw(uniform(3, "encoder/outer"))[0].ravel()[:5]]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env=dict(
            os.environ,
            PYTHONHASHSEED="12345",
            TF_CPP_MIN_LOG_LEVEL="3",
            PYTHONPATH=os.pathsep.join(p for p in sys.path if p),
        ),
    )
    assert done.stdout.strip().splitlines()[-1] == str(expected)
