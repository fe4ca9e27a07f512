"""Runs a layer with some of its experts left out, to see what they are needed for."""

from __future__ import annotations

from collections.abc import Sequence

from hmoe.compat.stack import mtf, tf
from hmoe.layer.level import Level
from hmoe.mesh.layout import expert_dimension_names, unsplit_name


def kept_shapes(levels: Sequence[Level]) -> list[mtf.Shape]:
    """Returns the shape of the kept experts of each level, outermost first.

    Args:
      levels: the levels of a layer, outermost first.

    Returns:
      For each level [outer experts ..., X], outermost first.
    """
    names = expert_dimension_names(len(levels))
    split = [mtf.Dimension(name, level.num_experts) for name, level in zip(names, levels)]
    return [
        mtf.Shape([*split[:depth], mtf.Dimension(unsplit_name(name), level.num_experts)])
        for depth, (name, level) in enumerate(zip(names, levels))
    ]


def import_kept(
    mesh: mtf.Mesh, levels: Sequence[Level], kept: Sequence[tf.Tensor]
) -> list[mtf.Tensor]:
    """Brings which experts are kept onto the mesh.

    Args:
      mesh: the mesh.
      levels: the levels of a layer, outermost first.
      kept: float32 [outer experts ..., X] for each level, 1 for an expert that is kept, else 0.
    """
    return [
        mtf.import_fully_replicated(mesh, tf.cast(each, tf.float32), shape, name="kept_experts")
        for each, shape in zip(kept, kept_shapes(levels))
    ]


def check_kept(levels: Sequence[Level], kept: Sequence[mtf.Tensor] | None) -> None:
    """Checks the kept experts of a call.

    Raises:
      ValueError: shapes do not suit the levels, or a router does not go by its scores.
    """
    if kept is None:
        return
    shapes = kept_shapes(levels)
    if [each.shape for each in kept] != shapes:
        raise ValueError(
            f"HierarchicalMoE: kept_experts has the shapes {[each.shape for each in kept]}, but the"
            f" levels need {shapes}; make them with hmoe.layer.kept_experts.import_kept"
        )
    for level in levels:
        if not level.router.follows_scores:
            raise ValueError(
                f"level '{level.name}': {type(level.router).__name__} does not choose by the"
                " scores of experts, so that none can be left out; use hmoe.TopKRouter or"
                " hmoe.SwitchRouter"
            )
