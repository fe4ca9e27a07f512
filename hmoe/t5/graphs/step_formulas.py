"""The closed formulas of the mixture layers of a step, beside what was counted in its graph."""

from __future__ import annotations

import collections
import dataclasses

from hmoe.plan.case_of_layer import case_of
from hmoe.plan.costs import DISPATCH, EXPERTS, ROUTER, LayerPlan, Plan, StepCosts
from hmoe.plan.explain import explain
from hmoe.plan.formulas import layer_costs
from hmoe.plan.layer_case import LayerCase
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.named_step import NamedStep
from hmoe.t5.graphs.step_proof import Comparison
from hmoe.t5.layers.metric_collection import LayerCall

# The parts that formulas give as the graph does, whatever stands around the layers.
_PARTS = (EXPERTS, ROUTER, DISPATCH)


@dataclasses.dataclass(frozen=True)
class LayerFormula:
    """The formulas of a layer.

    Attributes:
      name: name of the layer.
      case: the layer in plain numbers; None if no formula covers it.
      refused: why none does; "" if one does.
    """

    name: str
    case: LayerCase | None
    refused: str

    def text(self) -> str:
        """Returns the formulas with their numbers put in."""
        return self.refused if self.case is None else explain(self.case)


def formulas(step: NamedStep, settings: ModelSettings, plan: Plan) -> list[LayerFormula]:
    """Puts the mixture layers of a planned step into closed formulas.

    Args:
      step: the step.
      settings: the model's settings.
      plan: its plan.
    """
    calls = [record.call for record in step.records if record.call is not None]
    return [_formula(settings, plan, layer, call) for layer, call in zip(plan.layers, calls)]


def _formula(
    settings: ModelSettings, plan: Plan, layer: LayerPlan, call: LayerCall
) -> LayerFormula:
    outer = settings.outer_batch_size or 1
    try:
        case = case_of(
            call.moe,
            train=True,
            on_tpu=plan.on_tpu,
            d_model=call.input_size,
            output_dim=call.output_size,
            outer_batch=outer,
            batch=settings.batch_size // outer // plan.microbatches,
            length=layer.tokens // settings.batch_size,
            mesh=plan.mesh,
            layout=plan.layout,
            activation_bytes=settings.variable_dtype.activation_dtype.size,
            num_microbatches=plan.microbatches,
        )
    except ValueError as error:
        return LayerFormula(layer.name, None, str(error))
    return LayerFormula(layer.name, case, "")


def compare(found: list[LayerFormula], plan: Plan) -> list[Comparison]:
    """Adds up the formulas of all layers, and compares with what was counted in the graph.

    Args:
      found: the formulas of every layer.
      plan: the plan.

    Returns:
      Multiplications and bytes of experts, routers and dispatch, by level and phase; nothing if a
      layer has no formulas.
    """
    cases = [each.case for each in found if each.case is not None]
    if len(cases) < len(found) or not cases:
        return []
    planned = _totals(plan.costs)
    computed: collections.Counter[str] = collections.Counter()
    for case in cases:
        computed.update(_totals(layer_costs(case)))
    names = dict.fromkeys([*planned, *computed])
    return [Comparison(f"formulas: {name}", planned[name], computed[name]) for name in names]


def _totals(costs: StepCosts) -> collections.Counter[str]:
    found: collections.Counter[str] = collections.Counter()
    for place, number in costs.multiplications.items():
        if place.part in _PARTS:
            name = " ".join(word for word in place if word)
            found[f"{name}, multiplications"] += number
    for each in costs.exchanges:
        if each.place.part in _PARTS:
            name = " ".join(word for word in each.place if word)
            found[f"{name}, {each.kind} over {' and '.join(each.axes)}, bytes"] += each.size
    return found
