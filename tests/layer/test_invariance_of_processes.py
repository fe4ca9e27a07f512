"""A layer whose mesh lies in several processes gives the numbers of one process."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hmoe.compat.stack import tf
from hmoe.lowering import exchanges
from tests import meshes, seeded
from tests.layer import test_collectives, test_invariance, test_padding
from tests.process_pool import ProcessPool
from tests.routing import test_routers_invariance
from tests.run_layer import Run, run_layer

MESHES = test_invariance.MESHES
TWO_BY_TWO = MESHES["2x2"]


def in_process(module: Any, name: str, shape: str, layout: str) -> Run:
    """Runs the layer of a test in a process of the mesh; returns the numbers alone."""
    with meshes.using(meshes.PROCESSES):
        found = module.run(name, shape, layout)
    run = found[0] if isinstance(found, tuple) else found
    return dataclasses.replace(run, graph=None)


def run_case(name: str, shape: str, layout: str) -> Run:
    return in_process(test_invariance, name, shape, layout)


def run_router(name: str, shape: str, layout: str) -> Run:
    return in_process(test_routers_invariance, name, shape, layout)


def run_factored(shape: str, layout: str) -> Run:
    with meshes.using(meshes.PROCESSES):
        return dataclasses.replace(test_invariance.factored(shape, layout), graph=None)


def run_padded(engine: str, garbage: float, shape: str, layout: str) -> Run:
    """Runs a layer with something in its padding."""
    dims = test_padding.DIMS
    importance = seeded.importance_of(dims)
    importance[0, 0, 0] = 0.0
    layer = test_padding.layer(test_padding.ROUTERS["top-2"], experts=(4, 6))()
    with meshes.using(engine):
        found = run_layer(
            layer,
            test_padding.with_garbage(seeded.tokens_of(dims), importance, garbage),
            dims,
            importance=importance,
            output_size=5,
            mesh_shape=shape,
            layout=layout,
            steps=2,
        )
    return dataclasses.replace(found, graph=None)


def assert_all_same(runs: list[Run], alone: Run) -> None:
    """Compares what each process has with one process alone, and the processes to the bit."""
    first = runs[0]
    test_invariance.assert_same(first, alone)
    # Weights of which all have a copy would else drift apart.
    for other in runs[1:]:
        for kind in ("outputs", "loss", "losses", "sums", "gradients", "after"):
            mine, its = getattr(other, kind), getattr(first, kind)
            tf.nest.map_structure(np.testing.assert_array_equal, mine, its)


def slow(*arguments: Any) -> Any:
    return pytest.param(*arguments, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("random", MESHES["2x2"]),
        ("two", MESHES["1x2x2-hidden"]),
        slow("two", MESHES["2x2"]),
        slow("two", MESHES["4"]),
        slow("random", MESHES["1x4"]),
        slow("random", ("rows:4;cols:1", meshes.TWO_AXES)),
        slow("one", ("cols:4", test_invariance.ONE_LEVEL)),
        slow("one", ("rows:2;cols:2", test_invariance.ONE_LEVEL + ";expert_hidden:rows")),
    ],
    ids=str,
)
def test_four_processes(four_processes: ProcessPool, name: str, mesh: tuple[str, str]) -> None:
    runs = four_processes.run(run_case, name, *mesh)
    assert_all_same(runs, test_invariance.alone(name)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mesh"), [("two", "4x2"), ("random", "2x2x2-hidden"), ("random", "2x4")]
)
def test_eight_processes(eight_processes: ProcessPool, name: str, mesh: str) -> None:
    runs = eight_processes.run(run_case, name, *MESHES[mesh])
    assert_all_same(runs, test_invariance.alone(name)[0])


@pytest.fixture(scope="module")
def two_processes() -> Iterator[ProcessPool]:
    pool = ProcessPool(2)
    yield pool
    pool.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "random"])
def test_two_processes(two_processes: ProcessPool, name: str) -> None:
    runs = two_processes.run(run_case, name, *MESHES["2"])
    assert_all_same(runs, test_invariance.alone(name)[0])


@pytest.mark.parametrize(
    "name",
    [
        "balanced",
        *[slow(name) for name in test_routers_invariance.LAYERS if name != "balanced"],
    ],
)
def test_routers_in_four_processes(four_processes: ProcessPool, name: str) -> None:
    runs = four_processes.run(run_router, name, *TWO_BY_TWO)
    assert_all_same(runs, test_routers_invariance.alone(name))


@pytest.mark.slow
def test_three_steps_of_factored_adafactor_in_four_processes(
    four_processes: ProcessPool,
) -> None:
    runs = four_processes.run(run_factored, *TWO_BY_TWO)
    assert_all_same(runs, test_invariance.factored())


@pytest.mark.slow
def test_garbage_in_padding_reaches_nothing_in_four_processes(
    four_processes: ProcessPool,
) -> None:
    runs = four_processes.run(run_padded, meshes.PROCESSES, np.nan, *TWO_BY_TWO)
    assert_all_same(runs, run_padded(meshes.HMOE, 0.0, *TWO_BY_TWO))


def held(name: str, shape: str, layout: str) -> dict[str, int]:
    """Returns the elements of each variable that TensorFlow makes in this process."""
    made: dict[str, int] = {}
    initializer = tf.global_variables_initializer

    def seen() -> tf.Operation:
        made.update({each.op.name: int(np.prod(each.shape)) for each in tf.global_variables()})
        return initializer()

    tf.global_variables_initializer = seen
    try:
        run_case(name, shape, layout)
    finally:
        tf.global_variables_initializer = initializer
    return made


def test_a_process_holds_its_slices_alone(four_processes: ProcessPool) -> None:
    """Of the experts and of what the optimizer keeps for them a quarter, or half of the outer."""
    whole = 32 * 24 * 10
    for made in four_processes.run(held, "two", *TWO_BY_TWO):
        of_experts = {name: size for name, size in made.items() if name.startswith(("wi/", "wo/"))}
        assert made["wi/kernel_slice"] == whole * 5 / 4
        assert made["wo/kernel_slice"] == whole * 7 / 4
        assert len(of_experts) > 2  # those of the optimizer
        assert max(of_experts.values()) == whole * 7 / 4
        # Nothing else is as large.
        assert max(size for name, size in made.items() if name not in of_experts) < whole


def traffic() -> tuple[list[Any], list[str]]:
    """Returns what this process sends in a training step on 2 x 4, and the list of collectives."""
    with meshes.using(meshes.PROCESSES), tf.Graph().as_default():
        _, mesh, outputs = test_collectives.build(test_collectives.DIMS, gradients=True)
        lowering = meshes.lower(mesh, test_collectives.MESH, meshes.TWO_AXES)
        meshes.finish(lowering, [lowering.export_to_tf_tensor(each) for each in outputs])
        (mesh_impl,) = lowering.mesh_to_impl.values()
        return mesh_impl.traffic, mesh_impl.exchanges.lines


@pytest.mark.slow
def test_eight_processes_send_what_the_layer_must(eight_processes: ProcessPool) -> None:
    found = eight_processes.run(traffic)
    assert all(lines == found[0][1] for _, lines in found)
    sent = {
        each.axes: (each.collectives, each.tensors, each.size)
        for each in found[0][0]
        if each.kind == exchanges.ALL_TO_ALL
    }
    outer, inner = test_collectives.OUTER_SLOTS, test_collectives.INNER_SLOTS
    # Each process has an eighth, and keeps of that one part in four, or in two. There and back,
    # forward and backward; importance goes with the tokens, and what they reached comes with them. The
    # gradient of a sum needs no forward pass, so that both passes share their collectives here.
    assert sent == {
        ("cols",): (2, 6, (2 * outer * (5 + 7) + outer * (1 + 2)) * 4 // 8 * 3 // 4),
        ("rows",): (2, 4, 2 * inner * (5 + 7) * 4 // 8 // 2),
    }
    kinds = collections.Counter(line.split()[0] for line in found[0][1])
    assert kinds["all-to-all"] == 4
