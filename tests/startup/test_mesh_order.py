"""Numbers of processes and coordinates on the mesh, by tables worked out by hand."""

from __future__ import annotations

from hmoe.startup import mesh_order

TWO = [("outer_batch", "rows"), ("batch", "cols"), ("expert_x", "cols"), ("expert_y", "rows")]


def test_the_axis_of_the_inner_level_varies_fastest() -> None:
    shape = {"rows": 2, "cols": 3}
    assert mesh_order.slowest_first(shape, TWO) == ["cols", "rows"]
    found = [tuple(mesh_order.coordinates(n, shape, TWO).values()) for n in range(6)]
    assert found == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]


def test_axes_of_weights_are_inside_and_those_of_the_batch_alone_outside() -> None:
    shape = {"hidden": 2, "rows": 2, "copies": 2, "cols": 2}
    rules = [*TWO, ("expert_hidden", "hidden"), ("ensemble", "copies")]
    assert mesh_order.slowest_first(shape, rules) == ["copies", "cols", "rows", "hidden"]


def test_the_one_level_crosses_hosts() -> None:
    shape = {"cols": 4, "hidden": 2}
    rules = [("batch", "cols"), ("experts", "cols"), ("d_ff", "hidden")]
    assert mesh_order.slowest_first(shape, rules) == ["cols", "hidden"]


def test_places_on_two_hosts() -> None:
    shape = {"rows": 2, "cols": 3}
    found = mesh_order.places(shape, TWO, ["a", "a", "b", "b", "c", "c"])
    assert [(p.axis, p.size, p.level, p.hosts) for p in found] == [
        ("rows", 2, "expert_y", 1),
        ("cols", 3, "expert_x", 3),
    ]
    # Three processes on a host: the inner axis of the second pair crosses.
    found = mesh_order.places(shape, TWO, ["a", "a", "a", "b", "b", "b"])
    assert [(p.axis, p.hosts) for p in found] == [("rows", 2), ("cols", 2)]


def test_a_mesh_of_one() -> None:
    assert mesh_order.coordinates(0, {}, []) == {}
    assert mesh_order.places({"a": 1}, [], ["h"]) == [mesh_order.AxisPlace("a", 1, (), 1)]
