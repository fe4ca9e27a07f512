"""What users are told of the axes of the mesh and their hosts."""

from __future__ import annotations

from hmoe.launcher import places

RULES = [("outer_batch", "rows"), ("batch", "cols"), ("expert_x", "cols"), ("expert_y", "rows")]


def test_the_inner_level_inside_hosts() -> None:
    shape = {"rows": 2, "cols": 3}
    hosts = [name for name in "abc" for _ in range(2)]
    assert places.lines(shape, RULES, hosts) == [
        "Mesh axis 'rows' of 2 (outer_batch, expert_y) lies inside a host",
        "Mesh axis 'cols' of 3 (batch, expert_x) crosses 3 hosts",
    ]


def test_an_inner_level_that_is_too_long_for_a_host() -> None:
    shape = {"rows": 6, "cols": 1}
    hosts = [name for name in "abc" for _ in range(2)]
    assert places.lines(shape, RULES, hosts) == [
        "Mesh axis 'rows' of 6 (outer_batch, expert_y) crosses 3 hosts",
        "Warning: the inner level's exchange crosses hosts: expert_y is split over 'rows' of 6, "
        "which 2 processes on a host cannot hold; split it over a smaller axis, or run more "
        "processes on each host",
    ]


def test_one_level_that_crosses_hosts_is_as_it_must_be() -> None:
    rules = [("batch", "all"), ("experts", "all")]
    assert places.lines({"all": 2, "none": 2}, rules, ["a", "a", "b", "b"]) == [
        "Mesh axis 'all' of 2 (batch, experts) lies inside a host",
        "Mesh axis 'none' of 2 (nothing) crosses 2 hosts",
    ]
