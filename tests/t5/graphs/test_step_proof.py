"""The costs of a T5's step as they are planned, and as the lowered graph has them: to the byte."""

from __future__ import annotations

import dataclasses

import pytest

from hmoe.plan.costs import Exchange, Place, StepCosts
from hmoe.t5.graphs import step_formulas, step_plan, step_proof
from hmoe.t5.graphs.named_step import named_step
from tests import tpu_slices
from tests.gin import configs

SMALL = (
    'utils.run.sequence_length = {"inputs": 16, "targets": 8}',
    "utils.run.batch_size = 48",
    "utils.run.train_steps = 1",
    "num_blocks = 1",
    "d_model = 8",
    "d_ff = 12",
    "num_heads = 2",
    "d_kv = 4",
    "group_size = 32",
    "inner_group_size = 16",
    "num_outer_experts = 4",
    "num_inner_experts = 6",
    "num_experts = 8",
)
MICROBATCHES = "serialize_num_microbatches.tokens_per_microbatch_per_replica = 48"
LAYOUTS = configs.names("layouts")
ROUTERS = configs.names("models/routers")


def compared(on_tpu: bool = False) -> list[step_proof.Comparison]:
    """Plans the step of the present configuration, and lowers it."""
    settings = configs.described().settings
    step = named_step(settings, on_tpu=on_tpu)
    plan = step_plan.plan_of(step, settings, on_tpu=on_tpu)
    formulas = step_formulas.compare(step_formulas.formulas(step, settings, plan), plan)
    lowered = step_proof.compare(step, settings, plan.costs, on_tpu=on_tpu, packed=True)
    return [*lowered, *formulas]


def comparisons(
    files: list[str], bindings: tuple[str, ...] = (), on_tpu: bool = False
) -> list[step_proof.Comparison]:
    with configs.parsed(files, [*SMALL, *bindings]):
        return compared(on_tpu)


def assert_equal(found: list[step_proof.Comparison]) -> None:
    assert [each for each in found if not each.is_equal] == []
    # All-to-alls over both axes, gradients, and a number of multiplications that is none by chance.
    assert len(found) >= 7
    assert found[0].planned > 10000


@pytest.mark.parametrize("on_tpu", [False, True])
@pytest.mark.parametrize("microbatches", [False, True])
def test_two_levels(on_tpu: bool, microbatches: bool) -> None:
    bindings = ("dropout_rate = 0.1", *([MICROBATCHES] if microbatches else []))
    files = ["models/hierarchical_tiny.gin", "layouts/cpu_2x2.gin"]
    assert_equal(comparisons(files, bindings, on_tpu))


@pytest.mark.parametrize("layout", ["cpu_2x4", pytest.param("cpu_4x4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", ["hierarchical_tiny_lm", "one_level_tiny"])
def test_models_and_layouts(model: str, layout: str) -> None:
    sizes = ("num_inner_experts = 4",)
    assert_equal(comparisons([f"models/{model}.gin", f"layouts/{layout}.gin"], sizes))


@pytest.mark.slow
@pytest.mark.parametrize("model", configs.names("models"))
def test_every_model(model: str) -> None:
    found = comparisons([model, "layouts/cpu_2x2.gin"])
    assert [each for each in found if not each.is_equal] == []
    assert found[0].planned > 10000


@pytest.mark.slow
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "v3-" not in name])
def test_every_layout_of_cpus(layout: str) -> None:
    sizes = ("num_inner_experts = 4",)
    found = comparisons(["models/hierarchical_tiny.gin", layout], sizes)
    assert [each for each in found if not each.is_equal] == []


@pytest.mark.parametrize(
    "num_cores", [8, *(pytest.param(number, marks=pytest.mark.slow) for number in (32, 128))]
)
def test_layouts_of_tpus(num_cores: int) -> None:
    """Larger ones are lowered in tests/plan/test_pods.py."""
    layout, bindings = tpu_slices.layout_of(num_cores)
    with configs.parsed(["models/hierarchical_tiny.gin", layout], bindings):
        assert_equal(compared(on_tpu=True))


@pytest.mark.slow
@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("on_tpu", [False, True])
def test_every_router(router: str, on_tpu: bool) -> None:
    files = ["models/hierarchical_tiny.gin", router, "layouts/cpu_2x2.gin"]
    assert_equal(comparisons(files, on_tpu=on_tpu))


def test_a_difference_is_shown() -> None:
    files = ["models/hierarchical_tiny.gin", "layouts/cpu_2x2.gin"]
    with configs.parsed(files, SMALL):
        settings = configs.described().settings
        step = named_step(settings, on_tpu=False)
        costs = step_plan.plan_of(step, settings, on_tpu=False).costs
        more = Exchange("all-to-all", ("rows",), Place("dispatch", "inner", "forward"), 3, 1)
        wrong = dataclasses.replace(costs, exchanges=(*costs.exchanges, more))
        found = step_proof.compare(step, settings, wrong, on_tpu=False, packed=True)
    differences = {each.what: each.planned - each.lowered for each in found if not each.is_equal}
    assert differences == {"all-to-all over rows: bytes": 3, "all-to-all over rows: collectives": 1}
    assert isinstance(wrong, StepCosts)
