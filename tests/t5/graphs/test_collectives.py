"""Counts the gathers of a whole training step, with metrics on."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.compat.stack import tf
from hmoe.t5.graphs import build
from hmoe.t5.graphs.model_settings import TRAIN
from tests import collectives, meshes
from tests.t5 import tiny

pytestmark = pytest.mark.slow

LAYERS = 2
MICROBATCHES = f"serialize_num_microbatches.tokens_per_microbatch_per_replica = {tiny.LENGTH}"
# Sums that a level keeps for each outer expert; in full also two for each of two ranks.
FIELDS = {"brief": 6, "full": 7 + 2 * 2}


def gathers(
    folder: Path, *bindings: str, batch_size: int = tiny.BATCH
) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Returns axes and slice shapes of all that a step on 2 x 2 devices gathers or passes on."""
    estimator = tiny.make(
        folder,
        model="hierarchical_tiny",
        layout="cpu_2x2",
        bindings=bindings,
        batch_size=batch_size,
        autostack=False,
    )
    with tf.Graph().as_default(), collectives.recorded(meshes.kind()) as found:
        tf.train.get_or_create_global_step()
        features = {name: tf.constant(rows) for name, rows in tiny.ids(batch_size).items()}
        build.build_graph(estimator.settings, features, TRAIN)
    kinds = {each.kind for each in found}
    assert {collectives.ALL_TO_ALL, collectives.ALL_REDUCE} <= kinds
    assert collectives.PERMUTE not in kinds
    return sorted((e.axes, e.shape) for e in found if e.kind == collectives.ALL_GATHER)


def test_without_metrics_nothing_is_gathered(tmp_path: Path) -> None:
    assert gathers(tmp_path, 'hmoe.HierarchicalMoE.metrics = "off"') == []


@pytest.mark.parametrize(
    ("metrics", "bindings", "batch_size"),
    [
        pytest.param("brief", (), tiny.BATCH, id="default"),
        pytest.param("brief", (), 2 * tiny.BATCH, id="default-larger_batch"),
        pytest.param("brief", (MICROBATCHES,), tiny.BATCH, id="default-microbatches"),
        pytest.param("full", ('hmoe.HierarchicalMoE.metrics = "full"',), tiny.BATCH, id="full"),
    ],
)
def test_nothing_is_gathered_but_sums_for_metrics(
    tmp_path: Path, metrics: str, bindings: tuple[str, ...], batch_size: int
) -> None:
    """A step makes the sums that it reports whole; those of inner levels are split by outer expert.

    Each device has one of the two outer experts, with the load of its two inner experts and the
    other sums of their level. No size depends on the number of tokens.
    """
    of_layer = [(("cols",), (1, 2)), (("cols",), (1, FIELDS[metrics]))]
    assert gathers(tmp_path, *bindings, batch_size=batch_size) == sorted(LAYERS * of_layer)
