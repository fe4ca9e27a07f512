"""Searches the mesh and the layout for a planned step, with its levels of experts and with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hmoe.plan import search
from hmoe.plan.costs import Plan
from hmoe.plan.one_level import one_level
from hmoe.plan.search import Found
from hmoe.startup import garbage
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.other_meshes import OtherMeshes
from hmoe.t5.layers import layout_check


class Searched(NamedTuple):
    """What a search found.

    Attributes:
      num_levels: levels of the mixture layers; 0 for a dense model.
      own: of the model as it is.
      flat: of the model with one level of as many experts and slots; None if it has no more levels.
    """

    num_levels: int
    own: Found
    flat: Found | None


def search_meshes(
    settings: ModelSettings,
    devices: int,
    seconds: Callable[[Plan], float],
    memory: float,
    *,
    on_tpu: bool,
    packed: bool,
) -> Searched:
    """Plans a step on all meshes of a number of devices.

    Args:
      settings: the settings of the training.
      devices: the number of devices.
      seconds: the modelled time of a step.
      memory: bytes of a device.
      on_tpu: whether it would run on TPUs.
      packed: whether a sequence may hold several examples.
    """
    layers = layout_check.expert_layers(settings.transformer_model)
    num_levels = max((len(layer.moe.levels) for layer in layers), default=0)

    def found(levels: int, meshes: OtherMeshes) -> Found:
        with garbage.uncollected():  # graphs of named dimensions, which stay
            return search.search(search.candidates(devices, levels), meshes.plan, seconds, memory)

    own = found(num_levels, OtherMeshes(settings, on_tpu=on_tpu, packed=packed))
    if num_levels < 2:
        return Searched(num_levels, own, None)
    flat = OtherMeshes(settings, on_tpu=on_tpu, packed=packed, change=one_level)
    return Searched(num_levels, own, found(1, flat))
