"""Checks a model against mesh and layout rules before its graph is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mesh_tensorflow.transformer import transformer

from hmoe.compat.stack import mtf
from hmoe.layer.level import Level
from hmoe.mesh.layout import LayoutRules, MeshLayout, MeshShape
from hmoe.startup.mesh_text import DIMENSIONS
from hmoe.t5.layers import moe_layer as layer_lib
from hmoe.t5.layers.moe_layer import MoELayer


def check(
    model: transformer.Unitransformer,
    mesh_shape: MeshShape,
    layout_rules: LayoutRules,
    *,
    closed: bool = True,
) -> list[str]:
    """Checks layout rules and the hmoe layers of a model.

    Args:
      model: a transformer of T5, as `utils.build_model` returns it.
      mesh_shape: the shape of the run's mesh.
      layout_rules: the run's layout rules.
      closed: whether no code of a user's own can give the model dimensions of other names.

    Returns:
      Warnings, each once, about dimensions that stay whole on a mesh that has room, or that only
      code of a user's own could have; none for a model without experts, for which layout files may
      have other rules.

    Raises:
      ValueError: a rule names a dimension or mesh axis that does not exist, the experts
        cannot be split so, or a router does not suit a decoder.
    """
    layers = [(part, layer) for part in transformers(model) for layer in _of_stack(part)]
    if not layers:
        return []
    layout = MeshLayout(mesh_shape, _without_ensembles(layout_rules))
    warnings = dict.fromkeys(layout.check_rules(DIMENSIONS, closed=closed))
    for part, layer in layers:
        if layer.routes_own_tokens:
            layer_lib.refuse_routers_that_look_ahead(part, layer.moe)
        layout.check_levels(layer.moe.levels)
        warnings.update(dict.fromkeys(layout.warnings(layer.moe.levels)))
        warnings.update(dict.fromkeys(_too_many_choices(layer.moe.levels)))
    return list(warnings)


def _too_many_choices(levels: Sequence[Level]) -> Iterator[str]:
    """Yields a sentence for each level whose router asks for more experts than there are."""
    for level in levels:
        choices, retries = (getattr(level.router, name, 0) for name in ("k", "retries"))
        if choices > level.num_experts:
            yield (
                f"level '{level.name}': k is {choices}, but it has {level.num_experts} experts;"
                " every token chooses all of them"
            )
        elif retries and choices + retries > level.num_experts:
            yield (
                f"level '{level.name}': retries is {retries}, but beside the {choices} that a token"
                f" chooses the level has only {level.num_experts - choices}"
            )


def transformers(model: transformer.Unitransformer) -> list[transformer.Unitransformer]:
    """Returns the stacks of layers that a model consists of."""
    parts = [
        getattr(model, name)
        for name in ("student", "teacher", "encoder", "decoder")
        if hasattr(model, name)
    ]
    return [each for part in parts for each in transformers(part)] if parts else [model]


def expert_layers(model: transformer.Unitransformer) -> list[MoELayer]:
    """Returns the layers of a model that have experts."""
    return [layer for part in transformers(model) for layer in _of_stack(part)]


def _of_stack(part: transformer.Unitransformer) -> list[MoELayer]:
    return [layer for layer in getattr(part.layer_stack, "layers", []) if hasattr(layer, "moe")]


def _without_ensembles(layout_rules: LayoutRules) -> mtf.LayoutRules:
    """Returns the rules without T5's default one, over an axis that only ensembles have."""
    # LayoutRules has no public accessor for its pairs.
    pairs = mtf.convert_to_layout_rules(layout_rules)._pairs
    return mtf.LayoutRules(pairs - {("ensemble", "ensemble")})
