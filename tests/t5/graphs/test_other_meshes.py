"""Plans on many meshes, from few and shallow graphs: equal to those from a graph of each mesh."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from hmoe.cli import launch
from hmoe.plan import search
from hmoe.plan.costs import Exchange, Plan
from hmoe.plan.search import Candidate
from hmoe.t5.graphs import step_plan
from hmoe.t5.graphs.other_meshes import OtherMeshes
from tests import tolerances
from tests.gin import configs

BINDINGS = (
    'utils.run.sequence_length = {"inputs": 16, "targets": 8}',
    "utils.run.batch_size = 24",
    "utils.run.train_steps = 1",
    "d_model = 8",
    "d_ff = 12",
    "num_heads = 2",
    "d_kv = 4",
    "group_size = 32",
    "inner_group_size = 16",
    "num_outer_experts = 4",
    "num_inner_experts = 6",
)


@pytest.fixture(autouse=True)
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of layouts that leave something whole, which is no error."""
    said: list[str] = []
    monkeypatch.setattr(configs, "_fail_on_warning", said.append)
    return said


@contextlib.contextmanager
def settings_of(*more: str, model: str = "hierarchical_tiny") -> Iterator[Any]:
    files = [f"models/{model}.gin", "layouts/cpu_2x2.gin"]
    with configs.parsed(files, [*BINDINGS, *more]):
        yield configs.described().settings


def on(settings: Any, candidate: Candidate) -> list[str]:
    """The bindings by which a user asks for a candidate."""
    return [
        f"utils.run.mesh_shape = {candidate.mesh_shape!r}",
        f"utils.run.layout_rules = {candidate.layout_rules!r}",
        f"utils.run.mesh_devices = {[''] * 4}",
        f"tpu_estimator_model_fn.outer_batch_size = {candidate.outer_batch}",
        f"hmoe.HierarchicalMoE.inserted_outer_batch = {candidate.outer_batch}",
    ]


def exchanges(plan: Plan) -> dict[tuple, Exchange]:
    return {(each.kind, each.axes, each.place): each for each in plan.costs.exchanges}


def assert_equal(found: Plan, expected: Plan) -> None:
    assert found.costs.multiplications == expected.costs.multiplications
    assert exchanges(found) == exchanges(expected)
    same = ("memory", "parameters", "active_parameters", "mesh", "layout", "microbatches", "tokens")
    for name in same:
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.parametrize(
    "more",
    [
        ("num_blocks = 5",),
        ("num_blocks = 4", "serialize_num_microbatches.tokens_per_microbatch_per_replica = 48"),
    ],
)
def test_two_blocks_tell_the_costs_of_all(more: tuple[str, ...]) -> None:
    with settings_of(*more) as settings:
        mesh = {dim.name: dim.size for dim in settings.mesh_shape.dims}
        own = Candidate(mesh, dict(sorted(settings.layout_rules._pairs)), settings.outer_batch_size)
        found = OtherMeshes(settings, on_tpu=False, packed=True).plan(own)
        assert_equal(found, step_plan.plan_step(settings, on_tpu=False))
    assert len(found.layers) == 2  # those of the first blocks


def test_one_graph_for_several_meshes() -> None:
    with settings_of("num_blocks = 1") as settings:
        meshes = OtherMeshes(settings, on_tpu=False, packed=True)
        tried = [each for each in search.candidates(4, 2) if each.mesh["model"] == 1]
        found = search.search(tried, meshes.plan, lambda plan: 1.0, 1e12).ranked
        steps = [step for steps in meshes._built.values() for step, _ in steps]
        # One for each outer batch: 1, 2 and 4; six inner experts cannot be shared by four devices.
        assert (len(tried), len(found), len(steps)) == (8, 7, 3)
    for judged in found:
        with settings_of("num_blocks = 1", *on(settings, judged.candidate)) as alone:
            assert_equal(judged.plan, step_plan.plan_step(alone, on_tpu=False))


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate({"cols": 4, "rows": 1, "model": 1}, {"batch": "cols", "expert_y": "cols"}, 1),
        Candidate({"cols": 1, "rows": 4, "model": 1}, {"outer_batch": "rows"}, 5),
        Candidate({"cols": 1, "rows": 1, "model": 4}, {"heads": "model"}, 1),
        Candidate({"cols": 4, "rows": 1, "model": 1}, {"batch": "cols", "d_model": "rows"}, 1),
    ],
    ids=["experts", "batch", "heads", "one"],
)
def test_what_is_refused_fails_in_the_same_words(candidate: Candidate) -> None:
    """A rule for an axis of one device splits nothing, and is not refused."""
    with settings_of("num_blocks = 1") as settings:
        meshes = OtherMeshes(settings, on_tpu=False, packed=True)
        refused = search.search([candidate], meshes.plan, lambda plan: 1.0, 1e12).refused
    if candidate.layout.get("d_model"):
        assert refused == ()
        return
    bindings = ("num_blocks = 1", *on(settings, candidate))
    with pytest.raises(ValueError) as error, settings_of(*bindings) as alone:
        configs.train_step(alone)
    said = launch.describe(error.value, None).removeprefix("hmoe: error: ")
    assert [each.refused for each in refused] == [said]


@pytest.mark.slow
def test_legal_layouts_train_with_equal_loss() -> None:
    losses: dict[tuple, list[float]] = {}
    with settings_of("num_blocks = 1") as settings:
        meshes = OtherMeshes(settings, on_tpu=False, packed=True)
        found = search.search(search.candidates(4, 2), meshes.plan, lambda plan: 1.0, 1e12)
    for judged in found.ranked:
        bindings = [*on(settings, judged.candidate), "dropout_rate = 0.0"]
        with settings_of("num_blocks = 1", *bindings) as alone:
            (loss,), _ = configs.train_step(alone)
        # The loss follows the groups, and these the parts of the batch.
        groups = tuple(
            (level.group_size, level.num_groups)
            for layer in judged.plan.layers
            for level in layer.levels
        )
        losses.setdefault((judged.candidate.outer_batch, *groups), []).append(loss)
    assert max(map(len, losses.values())) >= 3
    for each in losses.values():
        assert each == pytest.approx([each[0]] * len(each), rel=tolerances.MESHES["rtol"])
