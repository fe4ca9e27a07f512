"""The runs of a retention study: whose examples are scored, with which experts kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from hmoe.analysis import retention
from hmoe.analysis.retention import KeptExperts
from hmoe.analysis.retention_scores import (
    ALL,
    RANDOM_GROUPS,
    RANDOM_LEAVES,
    TOP_GROUPS,
    TOP_LEAVES,
    WITHOUT_GROUP,
)
from hmoe.analysis.routed import routed, sizes
from hmoe.analysis.traces import LayerInfo, Trace


@dataclasses.dataclass(frozen=True)
class RetentionRun:
    """One way to keep some experts in all layers, for the examples of one label.

    Attributes:
      label: the label.
      kept: what is kept: `ALL`, one of `WAYS`, or `WITHOUT_GROUP`.
      masks: for each layer, by name, what `KeptExperts.masks` is.
      share: the share of leaves that are kept, over all layers.
      seed: of what is kept at random.
      group: the outer group that is left out.
      layer: the layer that it is left out of.
    """

    label: str
    kept: str
    masks: Mapping[str, tuple[np.ndarray, ...]]
    share: float
    seed: int | None = None
    group: int | None = None
    layer: str | None = None


def runs(trace: Trace, label: str, num_seeds: int) -> list[RetentionRun]:
    """Returns the runs of a study.

    For each label: all experts; a quarter, half and three quarters of the outer groups, as the most
    used groups, as many of the most used leaves, and both at random; and all but one group of one
    layer.
    What a label uses most is what the trace counts, layer by layer.

    Args:
      trace: a trace of the checkpoint.
      label: name of the label of examples, such as "language".
      num_seeds: how many times to choose at random.

    Raises:
      ValueError: the trace has no such label.
    """
    layers = trace.manifest.layers
    choices = {layer.name: routed(trace, layer.name, label) for layer in layers}
    use = {name: retention.use_by_label(each) for name, each in choices.items()}
    names = next(iter(choices.values())).labels
    found: list[RetentionRun] = []
    for number, name in enumerate(names):
        of_label = {layer: each[number] for layer, each in use.items()}
        found += _of_label(name, layers, of_label, num_seeds)
    return found


def _of_label(
    label: str, layers: tuple[LayerInfo, ...], use: Mapping[str, np.ndarray], num_seeds: int
) -> Iterator[RetentionRun]:
    def run(kept: str, keep: Callable[[LayerInfo], KeptExperts], **more: object) -> RetentionRun:
        chosen = {layer.name: keep(layer) for layer in layers}
        share = np.concatenate([each.leaves for each in chosen.values()]).mean()
        masks = {name: each.masks for name, each in chosen.items()}
        return RetentionRun(label, kept, masks, float(share), **more)  # type: ignore[arg-type]

    yield run(ALL, lambda layer: retention.keep_all(sizes(layer)))
    for number in _quarters(max(layer.levels[0].num_experts for layer in layers)):
        yield run(TOP_LEAVES, _top(retention.top_leaves, use, number))
        yield run(TOP_GROUPS, _top(retention.top_groups, use, number))
        for seed in range(num_seeds):
            yield run(RANDOM_LEAVES, _at_random(retention.random_leaves, number, seed), seed=seed)
            yield run(RANDOM_GROUPS, _at_random(retention.random_groups, number, seed), seed=seed)
    for at in layers:
        for group in range(at.levels[0].num_experts if at.levels[0].num_experts > 1 else 0):
            keep = _without(at, group)
            yield run(WITHOUT_GROUP, keep, group=group, layer=at.name)


def _quarters(num_groups: int) -> list[int]:
    """Returns a quarter, half and three quarters of the groups, but neither none nor all."""
    numbers = {round(num_groups * quarter / 4) for quarter in (1, 2, 3)}
    return sorted(numbers & set(range(1, num_groups)))


def _top(
    choose: Callable[..., KeptExperts], use: Mapping[str, np.ndarray], number: int
) -> Callable[[LayerInfo], KeptExperts]:
    return lambda layer: choose(use[layer.name], sizes(layer), _at_most(number, layer))


def _at_random(
    choose: Callable[..., KeptExperts], number: int, seed: int
) -> Callable[[LayerInfo], KeptExperts]:
    return lambda layer: choose(sizes(layer), _at_most(number, layer), seed)


def _without(at: LayerInfo, group: int) -> Callable[[LayerInfo], KeptExperts]:
    def keep(layer: LayerInfo) -> KeptExperts:
        if layer.name != at.name:
            return retention.keep_all(sizes(layer))
        return retention.without_group(group, sizes(layer))

    return keep


def _at_most(number: int, layer: LayerInfo) -> int:
    """Returns the number of groups to keep in a layer, which may have fewer than others."""
    return min(number, layer.levels[0].num_experts)
