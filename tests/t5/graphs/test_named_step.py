"""The graph of a step that is only planned is the one that training lowers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs import build, named_step
from hmoe.t5.graphs.model_settings import TRAIN
from hmoe.t5.graphs.named_step import NamedStep
from tests.t5 import tiny

# By their number. A device has 2 rows of 8 tokens of each of its parts of the outer batch.
MICROBATCHES = {1: (), 2: ("serialize_num_microbatches.tokens_per_microbatch_per_replica = 8",)}
BIASES = ("hmoe.TopKRouter.bias_update_rate = 0.01",)


def settings_of(folder: Path, bindings: Sequence[str] = (), **settings):
    return tiny.make(
        folder,
        model="hierarchical_tiny",
        layout="cpu_2x2",
        bindings=("hmoe.Level.balance_loss_over = 'example'", *bindings),
        # Stacking variables replaces operations while a graph is lowered.
        autostack=False,
        **settings,
    ).settings


def trained(settings, monkeypatch: pytest.MonkeyPatch) -> NamedStep:
    """The step that training builds and lowers."""
    caught: list[NamedStep] = []
    of_package = named_step.build

    def catching(*arguments, **keywords) -> NamedStep:
        caught.append(of_package(*arguments, **keywords))
        return caught[-1]

    monkeypatch.setattr(named_step, "build", catching)
    with tf.Graph().as_default():
        tf.train.create_global_step()
        rows = tiny.ids(settings.batch_size)
        graph = build.build_graph(settings, {n: tf.constant(r) for n, r in rows.items()}, TRAIN)
    (step,) = caught
    assert graph.lowering.graph is step.graph
    return step


def described(operations: Sequence[mtf.Operation]) -> list[str]:
    return [
        f"{type(op).__name__} {op.name} of {[str(x.shape) for x in op.inputs]} is "
        f"{[(str(x.shape), x.dtype.name) for x in op.outputs]}"
        for op in operations
    ]


def loops(step: NamedStep) -> list[mtf.ops.WhileLoopOperation]:
    return [op for op in step.graph.operations if isinstance(op, mtf.ops.WhileLoopOperation)]


@pytest.mark.parametrize("num_microbatches", MICROBATCHES)
def test_training_lowers_the_graph_that_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_microbatches: int
) -> None:
    settings = settings_of(tmp_path, MICROBATCHES[num_microbatches])
    planned = named_step.named_step(settings, on_tpu=False, packed=False)
    lowered = trained(settings, monkeypatch)
    assert described(planned.graph.operations) == described(lowered.graph.operations)
    assert planned.num_microbatches == lowered.num_microbatches == num_microbatches
    assert len(loops(planned)) == len(loops(lowered)) == (num_microbatches > 1)
    for mine, other in zip(loops(planned), loops(lowered)):
        assert len(mine._body_ops) > 1000
        assert described(mine._body_ops) == described(other._body_ops)


@pytest.mark.parametrize("num_microbatches", MICROBATCHES)
def test_phases(tmp_path: Path, num_microbatches: int) -> None:
    step = named_step.named_step(
        settings_of(tmp_path, MICROBATCHES[num_microbatches]), on_tpu=False
    )
    top = step.graph.operations
    phases = [step.phase(op) for op in top]
    ends = (step.first_backward, step.first_update)
    assert phases[: ends[0]] == ["forward"] * ends[0]
    assert phases[ends[0] : ends[1]] == ["backward"] * (ends[1] - ends[0])
    assert phases[ends[1] :] == ["update"] * (len(top) - ends[1])
    inside = [op for loop in loops(step) for op in loop._body_ops]
    # Everything that is made for gradients has a name that says so.
    is_backward = ["/gradients/" in op.name for op in inside or top[: ends[1]]]
    named = [step.phase(op) for op in inside or top[: ends[1]]]
    first = is_backward.index(True)
    assert set(named[: first - 1]) == {"forward"}
    # Before the first gradients of an operation comes that of the loss, which is 1.
    assert [type(op).__name__ for op in (inside or top)[first - 1 : first]] == ["Constant"]
    assert set(named[first - 1 :]) == {"backward"}
    assignments = [op for op in top if isinstance(op, mtf.ops.Assign)]
    assert assignments
    assert {step.phase(op) for op in assignments} == {"update"}


def test_features_without_data(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    names = {}
    for packed in (False, True):
        step = named_step.named_step(settings, on_tpu=False, packed=packed)
        imported = [op for op in step.graph.operations if isinstance(op, mtf.ops.ImportOperation)]
        # Not the number of the step.
        imported = [op for op in imported if op.outputs[0].shape.dims]
        names[packed] = [op.name for op in imported]
        assert {tuple(op.outputs[0].shape.to_integer_list) for op in imported} == {(2, 4, 8)}
        assert not [op for op in step.tf_graph.get_operations() if "Dataset" in op.type]
    assert names[False] == ["inputs", "targets"]
    assert names[True] == [
        *("inputs", "targets", "inputs_segmentation", "inputs_position"),
        *("targets_segmentation", "targets_position"),
    ]


def test_a_tpu_adds_up_its_sums(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    steps = {on: named_step.named_step(settings, on_tpu=on) for on in (False, True)}
    assert steps[False].added_up is None
    added_up = steps[True].added_up
    assert added_up is not None
    assert steps[True].phase(added_up.add) == "update"
    assert set(steps[True].sums) < set(added_up.keys)


def test_what_a_step_has(tmp_path: Path) -> None:
    step = named_step.named_step(settings_of(tmp_path, BIASES), on_tpu=False)
    assert [variable.name for variable in step.gradients] == [
        variable.name for variable in step.graph.trainable_variables
    ]
    for variable, gradient in step.gradients.items():
        assert gradient.shape == variable.shape
    # Two levels in each of two layers.
    assert len(step.bias_updates) == 4
    assert {step.phase(op) for op in step.bias_updates} == {"update"}
    layers = ["encoder/block_000/layer_001", "decoder/block_000/layer_002"]
    assert [record.name for record in step.records] == layers
    for record in step.records:
        call = record.call
        assert call is not None
        assert (call.input_size, call.output_size) == (16, 16)
        assert [level.name for level in call.moe.levels] == ["outer", "inner"]
        outer, inner = call.shapes
        # 64 tokens, 32 on each of the two parts of the batch, in groups of 16.
        assert (outer.tokens_dim.size, outer.exchange.group.size) == (16, 2)
        # 1.25 slots a token among 2 experts.
        assert (outer.capacity_dim.size, outer.exchange.experts.size) == (10, 2)
        # An outer expert has 2 * 2 * 10 slots.
        assert inner.tokens_dim.size * inner.exchange.group.size == 40
        assert [dim.name for dim in inner.expert_dims] == ["expert_x", "expert_y"]


def test_variables_that_are_left_out(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, variable_filter="wi")
    step = named_step.named_step(settings, on_tpu=False)
    assert step.gradients
    assert all("wi" in variable.name for variable in step.gradients)
    settings = settings_of(tmp_path, variable_filter="nothing")
    with pytest.raises(ValueError) as error:
        named_step.named_step(settings, on_tpu=False)
    assert str(error.value) == (
        "utils.run.variable_filter = 'nothing' leaves none of the 33 variables to train; the first "
        "is shared/embedding"
    )


def test_no_optimizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        named_step.named_step(settings_of(tmp_path, optimizer=None), on_tpu=False)
    assert str(error.value) == (
        "training needs utils.run.optimizer; in gin, for example: utils.run.optimizer = "
        "@optimize.AdafactorOptimizer"
    )
