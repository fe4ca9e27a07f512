"""Models of the shipped files train, on the layouts that they come with."""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from hmoe.t5 import configurables
from tests.gin import configs

# One block; depths, heads and experts' hidden layers as small as the layouts allow.
SHRUNK = (
    *configs.SMALL_DATA,
    "num_blocks = 1",
    "d_model = 16",
    "d_ff = 24",
    "d_ff_wide = 30",
    "num_heads = 2",
    "d_kv = 8",
    "group_size = 16",
    "inner_group_size = 10",
)
NUM_LAYERS = 2  # one of experts in the encoder, one in the decoder

# The larger models: one block, the real depth of the experts' hierarchy, d_model 64.
ONE_BLOCK = (
    *configs.SMALL_DATA,
    "num_blocks = 1",
    "d_model = 64",
    "d_ff = 64",
    "d_ff_wide = 80",
    "num_heads = 2",
    "d_kv = 16",
)


def _step(files, bindings, tmp_path, steps=1):
    with configs.parsed(files, bindings):
        settings = configs.described(str(tmp_path)).settings
        losses, lowering = configs.train_step(settings, steps)
    assert np.all(np.isfinite(losses))
    return losses, lowering


@pytest.mark.parametrize("kind", ["hierarchical", "one_level", "dense"])
def test_tiny_trains_on_2x2(kind, tmp_path):
    """Both mesh axes carry tokens if there are two levels, one of them if there is one."""
    losses, lowering = _step(
        [f"models/{kind}_tiny.gin", "layouts/cpu_2x2.gin"], SHRUNK, tmp_path, steps=3
    )
    assert losses[-1] < losses[0]
    # Tokens go out and back in each layer, forward and backward. The outer axis also carries the
    # importance of tokens inside, and back what they have reached, for the metrics.
    both_ways = 2 * 2 * NUM_LAYERS
    assert (
        configs.collectives(lowering, "alltoall")
        == {
            "hierarchical": {"cols": both_ways + 2 * NUM_LAYERS, "rows": both_ways},
            "one_level": {"cols": both_ways},
            "dense": {},
        }[kind]
    )
    # Nothing is gathered but the sums of metrics, some numbers an expert.
    assert configs.largest_gathered(lowering) < 200
    _check_shares(lowering, {"hierarchical": 4, "one_level": 2, "dense": 1}[kind])


def _check_shares(lowering, num_parts):
    """Each device holds one of so many parts of the experts, of which there are none if 1."""
    experts = [
        v for v in lowering.graph.trainable_variables if "expert_hidden" in v.shape.dimension_names
    ]
    assert bool(experts) == (num_parts > 1)
    for variable in experts:
        part = lowering.mesh_impl(variable).slice_shape(variable.shape)
        assert np.prod(part) * num_parts == variable.shape.size


# The routers of encoder and decoder.
ROUTERS = {
    "bias_balanced": (hmoe.TopKRouter, hmoe.TopKRouter),
    "expert_choice": (hmoe.ExpertChoiceRouter, hmoe.TopKRouter),
    "overflow": (hmoe.TopKRouter, hmoe.TopKRouter),
    "priority": (hmoe.TopKRouter, hmoe.TopKRouter),
    "switch": (hmoe.SwitchRouter, hmoe.SwitchRouter),
}


@pytest.mark.parametrize("name", configs.names("models/routers"))
def test_routers_reach_both_levels_of_both_stacks(name):
    with configs.parsed(["models/hierarchical_tiny.gin", name]):
        for stack, router in zip(("encoder", "decoder"), ROUTERS[_word(name)]):
            with configs.gin.config_scope(stack):
                levels = configurables.MoELayer().moe.levels
            assert [type(level.router) for level in levels] == [router, router]
            if router is hmoe.TopKRouter:
                assert [level.router.k for level in levels] == [2, 2]
            if router is hmoe.SwitchRouter:
                assert [level.router.retries for level in levels] == [2, 2]
            if _word(name) == "overflow":
                assert [level.router.retries for level in levels] == [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", configs.names("models/routers"))
def test_routers_train(name, tmp_path):
    _step(["models/hierarchical_tiny.gin", name, "layouts/one_device.gin"], SHRUNK, tmp_path)


def _word(name):
    return name.split("/")[-1][: -len(".gin")]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in configs.names("models/routers")
        if _word(name) in ("bias_balanced", "switch")
    ],
)
def test_routers_of_one_level(name):
    with configs.parsed(["models/one_level_tiny.gin", name]):
        [level] = configurables.MoELayer().moe.levels
    assert type(level.router) is ROUTERS[_word(name)][0]
    assert level.router.gate.function == ("sigmoid" if "bias" in name else "softmax")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hierarchical", "one_level", "dense"])
def test_decoder_alone_trains(kind, tmp_path):
    _step([f"models/{kind}_tiny_lm.gin", "layouts/cpu_2x2.gin"], SHRUNK, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["one_device", "cpu_2x4", "cpu_4x4"])
def test_tiny_trains_on_every_cpu_layout(layout, tmp_path):
    _step(["models/hierarchical_tiny.gin", f"layouts/{layout}.gin"], SHRUNK, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in configs.names("models") if "tiny" not in name])
def test_larger_models_train_with_one_block(name, tmp_path):
    """Shrunk to one block and d_model 64; number of experts and layers of the block as shipped."""
    _step([name, "layouts/cpu_2x2.gin"], ONE_BLOCK, tmp_path)
