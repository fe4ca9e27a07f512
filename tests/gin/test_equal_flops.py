"""The twins of a size cost the same FLOPs per token, as their headers say."""

from __future__ import annotations

import re

import pytest

from hmoe.layer.capacity import expert_capacity
from hmoe.t5 import configurables
from tests.gin import configs

MODELS = configs.names("models")
SIZES = sorted({re.sub(r"models/(hierarchical|one_level|dense)_", "", name) for name in MODELS})


def _header(name: str) -> dict[str, str]:
    """The lines `what  product = number` of a header, as {what: "product = number"}."""
    line = r"^#   (\w+) +([\d\s*+().]+= [\d,]+)$"
    return dict(re.findall(line, configs.text(name), re.MULTILINE))


def _value(line: str) -> float:
    """The number that a header's line states; its arithmetic must give it."""
    product, stated = line.split("=")
    number = int(stated.replace(",", ""))
    assert re.fullmatch(r"[\d\s*+().]+", product)
    assert eval(product) == number
    return number


def _slots(levels: list) -> float:
    """Slots per token at training capacity, from the integers that the layer computes."""
    slots = 1.0
    for depth, level in enumerate(levels):
        capacity = expert_capacity(
            level.name,
            level.group_size,
            level.capacity_factor(train=True, depth=depth),
            level.num_experts,
            level.min_capacity,
        )
        slots *= capacity * level.num_experts / level.group_size
    return slots


def _experts_flops(d_model: int) -> dict[str, float]:
    """FLOPs per token of the layer that gin describes."""
    if "MoELayer" not in str(configs.macro("expert_layer")):
        return {"layer": 2 * 3 * d_model * configs.macro("d_ff_wide")}
    layer = configurables.MoELayer().moe
    flops = {"routers": 0.0, "moving": 0.0}
    arriving = 1.0
    for depth, level in enumerate(layer.levels):
        flops["routers"] += 2 * d_model * level.num_experts * arriving
        slots = _slots(layer.levels[: depth + 1])
        # A token's share of the product [tokens, slots of all experts] x [tokens, d_model].
        flops["moving"] += 2 * 2 * d_model * level.group_size * slots
        arriving = slots
    flops["experts"] = 2 * layer.experts.num_params(d_model, d_model) * arriving
    return flops


@pytest.mark.parametrize("name", MODELS)
def test_header_states_what_the_layer_costs(name):
    header = {what: _value(line) for what, line in _header(name).items()}
    with configs.parsed([name]):
        assert header == _experts_flops(configs.macro("d_model"))


@pytest.mark.parametrize("size", SIZES)
def test_twins_cost_the_same(size):
    experts = {
        kind: _header(f"models/{kind}_{size}") for kind in ("hierarchical", "one_level", "dense")
    }
    costs = {
        _value(experts["hierarchical"]["experts"]),
        _value(experts["one_level"]["experts"]),
        _value(experts["dense"]["layer"]),
    }
    assert len(costs) == 1


@pytest.mark.parametrize("size", SIZES)
def test_twins_differ_in_nothing_else(size):
    """Depths, heads, layers and number of blocks are those of the same size file."""
    macros = ("d_model", "d_ff", "num_heads", "d_kv", "num_blocks", "dropout_rate")
    values = []
    for kind in ("hierarchical", "one_level", "dense"):
        with configs.parsed([f"models/{kind}_{size}"]):
            values.append([configs.macro(macro) for macro in macros])
            assert configs.macro("num_experts") == (
                configs.macro("num_outer_experts") * configs.macro("num_inner_experts")
            )
            assert configs.macro("d_ff_wide") * 4 == configs.macro("d_ff") * 5
    assert values[0] == values[1] == values[2]


T5_1_1 = {  # d_model, d_ff, heads, layers of a stack
    "small": (512, 1024, 6, 8),
    "base": (768, 2048, 12, 12),
    "large": (1024, 2816, 16, 24),
    "xl": (2048, 5120, 32, 24),
    "xxl": (4096, 10240, 64, 24),
}


@pytest.mark.parametrize("size", sorted(T5_1_1))
def test_sizes_are_those_of_t5_1_1(size):
    with configs.parsed([f"models/hierarchical_{size}.gin"]):
        sizes = [configs.macro(name) for name in ("d_model", "d_ff", "num_heads")]
        layers = 2 * configs.macro("num_blocks")
        assert (*sizes, layers) == T5_1_1[size]
        assert configs.macro("d_kv") == 64
