"""Mesh shapes, rules and devices as text: read like Mesh TensorFlow reads them, or refused."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hmoe.compat.stack import mtf
from hmoe.startup import mesh_text

WORDS = st.text(alphabet="ab:;,. 012-\0é", max_size=12)
ANYTHING = (
    WORDS
    | st.none()
    | st.integers()
    | st.lists(st.tuples(st.text(max_size=3), st.integers() | st.text(max_size=2)), max_size=3)
    | st.lists(st.integers() | st.none(), max_size=3)
)


@settings(max_examples=100, deadline=None)
@given(ANYTHING)
@example("rows:2;cols:2")
@example("rows:２")
@example("rows:+2")
@example("rows:1_0")
@example([("rows", "1")])
def test_shapes_are_mesh_tensorflows_or_refused(text):
    try:
        found = mesh_text.shape(text)
    except ValueError as error:
        assert str(error).split()[0] in ("gives", "names", "must", "has")  # noqa: PT017
    else:
        theirs = mtf.convert_to_shape(text)
        assert found == {dim.name: dim.size for dim in theirs.dims}


@settings(max_examples=100, deadline=None)
@given(ANYTHING)
@example("batch:rows;heads:cols")
def test_rules_are_mesh_tensorflows_or_refused(text):
    try:
        found = mesh_text.rules(text)
    except ValueError as error:
        assert str(error).split()[0] in ("must", "has")  # noqa: PT017
    else:
        assert (
            set(found)
            == mtf.convert_to_layout_rules(
                text if isinstance(text, str) else list(map(tuple, text))
            )._pairs
        )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), max_size=4), st.dictionaries(WORDS, st.integers(1)))
def test_rules_and_mesh_fit_or_are_refused(layout, mesh):
    for check in (
        lambda: mesh_text.check_rules(layout, mesh, mesh_text.DIMENSIONS),
        lambda: mesh_text.check_tensors(layout, mesh),
    ):
        try:
            check()
        except ValueError as error:
            assert str(error).startswith("layout rule")  # noqa: PT017


DEVICES = {
    "": None,
    "cpu:0": ("CPU", 0),
    "GPU:1": ("GPU", 1),
    "/cpu:0": ("CPU", 0),
    "/device:GPU:3": ("GPU", 3),
    "/gpu:*": None,
    "/job:worker/task:2": None,
    "/job:localhost/replica:0/task:0/device:CPU:0": ("CPU", 0),
}


@pytest.mark.parametrize("device", DEVICES)
def test_devices(device):
    mesh_text.check_device(device)
    assert mesh_text.number_of(device) == DEVICES[device]


@pytest.mark.parametrize("device", ["gpux:0", "all", "cpu:-1", "cpu 0", "/job/task:0", 0, None])
def test_no_devices(device):
    with pytest.raises(ValueError) as error:
        mesh_text.check_device(device)
    assert str(error.value) == (
        f"has {device!r}, which is no device; give '' for any device, or a name such as 'cpu:0', 'gpu:1' "
        "or '/job:worker/task:0/device:CPU:0'"
    )


def test_jobs():
    assert mesh_text.job_of("/job:worker/task:2/device:CPU:0") == "/job:worker"
    assert mesh_text.job_of("/task:1") == "/task:1"
    assert mesh_text.job_of("/job:localhost/task:1") == "/task:1"
    assert mesh_text.job_of("/replica:2/cpu:0") == "/replica:2"
    for this in ("cpu:0", "/job:localhost/replica:0/task:0/device:CPU:0", "/task:0/cpu:1"):
        assert mesh_text.job_of(this) is None
