"""Mesh shapes and layout rules: every check by its full text."""

from __future__ import annotations

import pytest

import hmoe
from hmoe.mesh.layout import MeshLayout
from tests import meshes


def levels(*sizes):
    names = ("outer", "inner", "third")
    return [
        hmoe.Level(name=name, num_experts=size, router=hmoe.TopKRouter(k=2))
        for name, size in zip(names, sizes)
    ]


def refused(mesh, rules, *sizes):
    with pytest.raises(ValueError) as error:
        MeshLayout(mesh, rules).check_levels(levels(*sizes))
    return str(error.value)


def test_axis_and_number_of_splits():
    layout = MeshLayout("rows:2;cols:4", meshes.TWO_AXES)
    assert layout.axis("expert_x") == "cols"
    assert (layout.num_splits("expert_x"), layout.num_splits("expert_y")) == (4, 2)
    assert (layout.num_splits("length"), layout.axis("length")) == (1, None)
    assert MeshLayout().num_splits("batch") == 1


def test_experts_that_devices_cannot_share():
    assert refused("rows:4;cols:2", meshes.TWO_AXES, 2, 6) == (
        "level 'inner': expert_y has 6 experts, which the 4 devices of mesh axis 'rows' cannot"
        " share; use a multiple of 4 or another layout"
    )
    assert refused("cols:3", "experts:cols", 4) == (
        "level 'outer': experts has 4 experts, which the 3 devices of mesh axis 'cols' cannot"
        " share; use a multiple of 3 or another layout"
    )


def test_third_level_has_no_axis():
    assert refused("rows:2", "expert_z:rows", 2, 4, 8) == (
        "level 'third': layout rule 'expert_z:rows' splits the experts of a third level, but a T5"
        " has two batch dimensions to exchange them for; remove the rule, or use two levels"
    )


@pytest.mark.parametrize(
    ("rules", "pair", "sizes"),
    [
        ("expert_x:rows;expert_y:rows", ("expert_x", "expert_y"), (2, 4)),
        ("expert_y:rows;expert_hidden:rows", ("expert_y", "expert_hidden"), (2, 4)),
        ("experts:rows;expert_hidden:rows", ("experts", "expert_hidden"), (4,)),
        ("outer_batch:rows;batch:rows", ("outer_batch", "batch"), (4,)),
        ("expert_x:rows;outer_batch:rows", ("expert_x", "outer_batch"), (2, 4)),
        # With one level the outer batch stays in the experts' tensors.
        ("experts:rows;outer_batch:rows", ("experts", "outer_batch"), (4,)),
        ("expert_hidden:rows;outer_batch:rows", ("expert_hidden", "outer_batch"), (4,)),
    ],
)
def test_one_axis_for_two_dimensions_of_a_tensor(rules, pair, sizes):
    assert refused("rows:2", rules, *sizes) == (
        f"layout rules '{pair[0]}:rows' and '{pair[1]}:rows': one tensor has both dimensions, and"
        " mesh axis 'rows' can split only one of them; give them different axes"
    )


def test_two_levels_may_split_hidden_and_outer_batch_over_one_axis():
    MeshLayout("rows:2", "expert_hidden:rows;outer_batch:rows").check_levels(levels(2, 4))


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        (
            "bacth:rows",
            "layout rule 'bacth:rows': no tensor has a dimension 'bacth'; did you mean 'batch'?",
        ),
        (
            "q:rows",
            "layout rule 'q:rows': no tensor has a dimension 'q'; known are batch, expert_x",
        ),
        (
            "batch:cols",
            "layout rule 'batch:cols': the mesh has no axis 'cols'; it has 'rows' of 2."
            " Name one of these, or remove the rule",
        ),
        (
            "batch:rows;batch:planes",
            "layout rules 'batch:planes' and 'batch:rows': a dimension can be"
            " split over one mesh axis only; remove one of the rules",
        ),
    ],
)
def test_rules_that_can_have_no_effect(rules, text):
    mesh = "rows:2;planes:2" if "planes" in rules else "rows:2"
    with pytest.raises(ValueError) as error:
        MeshLayout(mesh, rules).check_rules(["expert_x", "batch"])
    assert str(error.value) == text


def test_rules_for_dimensions_of_a_users_own_layers():
    layout = MeshLayout("rows:2", "my_dim:rows;bacth:rows")
    assert layout.check_rules(["expert_x", "batch"], closed=False) == [
        "layout rule 'bacth:rows': neither T5 nor hmoe has a dimension 'bacth', only code of your"
        " own could; did you mean 'batch'?",
        "layout rule 'my_dim:rows': neither T5 nor hmoe has a dimension 'my_dim', only code of your"
        " own could",
    ]
    with pytest.raises(ValueError, match="the mesh has no axis 'cols'"):
        MeshLayout("rows:2", "my_dim:cols").check_rules(["batch"], closed=False)


def test_rule_on_a_mesh_of_one_device():
    with pytest.raises(ValueError) as error:
        MeshLayout("", "batch:rows").check_rules(["batch"])
    assert str(error.value) == (
        "layout rule 'batch:rows': the mesh has no axis 'rows'; it has no axes (one device). Name"
        " one of these, or remove the rule"
    )


def test_no_warning_where_all_is_split_or_nothing_can_be():
    assert MeshLayout("rows:2;cols:2", meshes.TWO_AXES).warnings(levels(2, 4)) == []
    assert MeshLayout("rows:1", "").warnings(levels(2, 4)) == []


def test_warning_of_dimensions_that_stay_whole():
    said = MeshLayout("rows:2;cols:2", "batch:cols;expert_x:cols").warnings(levels(2, 4))
    assert [text.split("'")[1] for text in said] == ["expert_y", "outer_batch"]
    assert all(
        "is not split, although the mesh has 'rows' of 2, 'cols' of 2: every device holds"
        " all of it. Add a layout rule such as" in text
        for text in said
    )


def test_warning_of_experts_and_batch_on_different_axes():
    said = MeshLayout("rows:2;cols:2", "batch:rows;experts:cols").warnings(levels(4))
    assert (
        "'experts' is split over mesh axis 'cols' and 'batch' over 'rows': the exchange between"
        " them is no all-to-all along one axis but gathers whole tensors. Split both over the"
        " same axis"
    ) in said
