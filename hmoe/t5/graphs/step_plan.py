"""Plans a training step of a T5: what it costs on each device of the mesh, before it runs."""

from __future__ import annotations

from hmoe.mesh.layout import MeshLayout
from hmoe.plan import counting, remarks
from hmoe.plan.costs import LayerPlan, Plan
from hmoe.plan.layer_plans import layer_plan
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.named_step import NamedStep, named_step
from hmoe.t5.layers.metric_collection import Record


def plan_step(settings: ModelSettings, *, on_tpu: bool) -> Plan:
    """Plans a step of a model.

    Args:
      settings: the model's settings.
      on_tpu: whether it would run on TPUs.

    Returns:
      The plan.

    Raises:
      ValueError: sizes, mesh and layout do not suit each other.
    """
    return plan_of(named_step(settings, on_tpu=on_tpu), settings, on_tpu=on_tpu)


def plan_of(step: NamedStep, settings: ModelSettings, *, on_tpu: bool) -> Plan:
    """Plans a step whose graph is built.

    Args:
      step: the step.
      settings: the model's settings.
      on_tpu: whether it would run on TPUs.
    """
    mesh = {dim.name: dim.size for dim in settings.mesh_shape.dims}
    layout = _rules(settings, mesh)
    layers = _layers(step, settings)
    counted = counting.count(
        step.counted, settings.mesh_shape, settings.layout_rules, on_tpus=on_tpu
    )
    parameters = sum(variable.size for variable in step.graph.trainable_variables)
    return Plan(
        mesh=mesh,
        layout=layout,
        tokens=settings.batch_size * sum(_lengths(settings)),
        microbatches=step.num_microbatches,
        costs=counted.costs,
        memory=counted.memory,
        parameters=parameters,
        active_parameters=parameters - sum(_idle_params(each) for each in step.records),
        layers=layers,
        remarks=remarks.remarks(
            mesh, layout, layers, counted.memory.parameters, _whole_weights(step, mesh, layout)
        ),
        on_tpu=on_tpu,
    )


def _rules(settings: ModelSettings, mesh: dict[str, int]) -> dict[str, str]:
    """Returns the rules that have an axis on the mesh."""
    pairs = sorted(settings.layout_rules._pairs)
    return {name: axis for name, axis in pairs if axis in mesh}


def _whole_weights(step: NamedStep, mesh: dict[str, int], layout: dict[str, str]) -> int:
    """Returns the bytes of the weights of which every device has all."""
    return sum(
        variable.size * variable.slice_dtype.size
        for variable in step.graph.trainable_variables
        if all(mesh.get(layout.get(name, ""), 1) == 1 for name in variable.shape.dimension_names)
    )


def _lengths(settings: ModelSettings) -> list[int]:
    names = ["targets"] if settings.model_type == "lm" else ["inputs", "targets"]
    return [settings.sequence_length[name] for name in names]


def _layers(step: NamedStep, settings: ModelSettings) -> tuple[LayerPlan, ...]:
    layout = MeshLayout(settings.mesh_shape, settings.layout_rules)
    return tuple(
        layer_plan(
            record.name,
            record.call.moe.levels,
            record.call.shapes,
            layout,
            step.num_microbatches,
        )
        for record in step.records
        if record.call is not None
    )


def _idle_params(record: Record) -> int:
    """Returns the parameters of a layer that no single token can use."""
    call = record.call
    # A user's own experts need not know their parameters: then all of them count as active.
    if call is None or not hasattr(call.moe.experts, "num_params"):
        return 0
    sizes = (call.input_size, call.output_size)
    return call.moe.num_params(*sizes) - call.moe.num_active_params(*sizes)
