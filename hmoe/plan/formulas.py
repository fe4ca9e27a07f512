"""The costs of a mixture layer by closed formulas, with no graph, TensorFlow or Mesh TensorFlow.

It is the second way to what `hmoe.plan.counting` counts in the graph, and independent of it: each
term stands here because of what the layer is, not because some operation was found.

Letters: A outer batch, B batch, L length, M depth of the inputs, N of the outputs, F hidden; of the
first level X experts, G groups, S tokens of a group, C slots of an expert, Kx rounds of choices; of
the second Y, H, T, D, Ky; of the third Z, I, U, P, Kz.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from hmoe.plan import aux_formulas
from hmoe.plan.costs import BACKWARD, DISPATCH, EXPERTS, FORWARD, Place, StepCosts
from hmoe.plan.layer_case import ACTIVATIONS, FeedForwardCase, LayerCase
from hmoe.plan.layer_sizes import Dim, Dims, LevelSizes, level_sizes, split
from hmoe.plan.router_formulas import add_router
from hmoe.plan.terms import FLOAT32, Term, Terms, costs_of

# An all-to-all carries numbers of examples in digits of this base (`hmoe.mesh.example_ids`).
_DIGIT_BASE = 256


def layer_costs(case: LayerCase) -> StepCosts:
    """Returns what a device multiplies and sends for a layer in one step.

    The update of the weights is not part of it, nor that of balance biases. What losses and
    metrics take is, as if all of them were read.

    Raises:
      ValueError: groups or capacity cannot be as asked for, or one mesh axis would split two
        dimensions of a tensor.
    """
    return costs_of(layer_terms(case))


def layer_terms(case: LayerCase) -> list[Term]:
    """Returns the terms that the costs of a layer are the sums of; see `layer_costs`."""
    terms = Terms(case.mesh, case.on_tpu, case.num_microbatches)
    levels = level_sizes(case)
    depth_dim = Dim("M", case.d_model)
    for depth, level in enumerate(levels):
        add_router(terms, case, level, depth_dim)
        _add_dispatch(terms, case, level, depth_dim)
        if depth + 1 < len(levels):
            _add_fields(terms, case, level, depth)
        _add_combine(terms, case, level)
    _add_experts(terms, case, levels[-1], depth_dim)
    if case.shared_expert is not None:
        _add_shared_expert(terms, case, case.shared_expert, depth_dim)
    for level in levels:
        aux_formulas.add_losses(terms, case, level)
    aux_formulas.add_metrics(terms, case, levels)
    return terms.all


def _add_dispatch(terms: Terms, case: LayerCase, level: LevelSizes, depth_dim: Dim) -> None:
    """Adds tokens on their way to the experts of a level, and their gradients on the way back."""
    there = (*level.slots_of_groups, depth_dim), (*level.slots_of_experts, depth_dim)
    _add_move(terms, case, level, "tokens", depth_dim, _at(level, FORWARD))
    terms.relayout(_at(level, FORWARD), "tokens", *there, case.activation_bytes)
    if case.train:
        _add_move(terms, case, level, "tokens", depth_dim, _at(level, BACKWARD))
        terms.relayout(_at(level, BACKWARD), "tokens", *there[::-1], case.activation_bytes)


def _add_combine(terms: Terms, case: LayerCase, level: LevelSizes) -> None:
    """Adds outputs on their way back to the groups of a level, and their gradients out again."""
    trailing = _output_dims(case)
    back = (*level.slots_of_experts, *trailing), (*level.slots_of_groups, *trailing)
    terms.relayout(_at(level, FORWARD), "outputs", *back, case.activation_bytes)
    _add_move(terms, case, level, "outputs", trailing, _at(level, FORWARD))
    if case.train:
        terms.relayout(_at(level, BACKWARD), "outputs", *back[::-1], case.activation_bytes)
        _add_move(terms, case, level, "outputs", trailing, _at(level, BACKWARD))


def _add_fields(terms: Terms, case: LayerCase, level: LevelSizes, depth: int) -> None:
    """Adds the numbers that travel beside tokens to a further level: importance, and examples."""
    number, further = 1, case.levels[depth + 1 :]
    if any(each.balance_loss_over == "example" for each in further):
        number += num_digits(case.outer_batch * case.batch)
    fields, place = Dim("fields", number), _at(level, FORWARD)
    what = "importance" if number == 1 else "importance and examples"
    _add_move(terms, case, level, what, fields, place)
    old, new = (*level.slots_of_groups, fields), (*level.slots_of_experts, fields)
    terms.relayout(place, what, old, new, FLOAT32)


def num_digits(num_examples: int) -> int:
    """Returns the number of digits that number the examples of a batch."""
    digits, largest = 1, (num_examples - 1) // _DIGIT_BASE
    while largest:
        digits, largest = digits + 1, largest // _DIGIT_BASE
    return digits


def _add_move(
    terms: Terms, case: LayerCase, level: LevelSizes, what: str, trailing: Dim | Dims, place: Place
) -> None:
    """Adds the move between tokens and slots; the engine that gathers rows multiplies nothing."""
    if case.engine == "einsum":
        more = (trailing,) if isinstance(trailing, Dim) else trailing
        slots = (level.experts.whole(), level.capacity)
        terms.multiply(place, what, (*level.each_token, *slots, *more))


def _add_experts(terms: Terms, case: LayerCase, level: LevelSizes, depth_dim: Dim) -> None:
    """Adds the experts, on the slots of the last level."""
    hidden = split(case, "F", "expert_hidden", case.experts.hidden_size)
    rows, experts = level.slots_of_experts, level.all_experts
    layer = case.experts
    sums = {phase: Place(EXPERTS, "", phase) for phase in (FORWARD, BACKWARD)}
    if _moves_nothing(level):
        # A reshape that moves nothing leaves a sum over devices to whoever reads its result.
        sums[BACKWARD] = _at(level, BACKWARD)
        is_read = layer.num_outputs > 1 or layer.use_bias or (layer.output_dropout and case.train)
        if not is_read:
            sums[FORWARD] = _at(level, FORWARD)
    _add_feed_forward(terms, case, layer, "", rows, experts, depth_dim, hidden, sums)


def _moves_nothing(level: LevelSizes) -> bool:
    """Returns whether the exchange of a level is none for Mesh TensorFlow.

    It goes by how many elements stand before the dimension that an axis splits: with one expert at
    each level it is the same for experts and for groups.
    """
    experts, groups = level.experts, level.groups
    if experts.axis is None and groups.axis is None:
        return True
    dims = level.slots_of_experts
    at = [dim.symbol for dim in dims].index(groups.symbol)
    return experts.axis == groups.axis and math.prod(dim.size for dim in dims[:at]) == 1


def _add_shared_expert(
    terms: Terms, case: LayerCase, shared: FeedForwardCase, depth_dim: Dim
) -> None:
    """Adds the expert that every token passes."""
    hidden = split(case, "f", "d_ff", shared.hidden_size)
    rows = (
        split(case, "A", "outer_batch", case.outer_batch),
        split(case, "B", "batch", case.batch),
        Dim("L", case.length),
    )
    sums = {phase: Place(EXPERTS, "", phase) for phase in (FORWARD, BACKWARD)}
    _add_feed_forward(terms, case, shared, "shared ", rows, (), depth_dim, hidden, sums)


def _add_feed_forward(
    terms: Terms,
    case: LayerCase,
    layer: FeedForwardCase,
    label: str,
    rows: Dims,
    experts: Dims,
    depth_dim: Dim,
    hidden: Dim,
    sums: Mapping[str, Place],
) -> None:
    """Adds a feed-forward layer.

    Args:
      terms: the terms to add to.
      case: the mixture layer.
      layer: the feed-forward layer.
      label: put before what terms are about.
      rows: the dimensions of its inputs without the depth, experts included.
      experts: the experts among them, each of which has weights of its own.
      depth_dim: M.
      hidden: F.
      sums: by phase, where the sums over devices of outputs, and of gradients of inputs, belong.
    """
    forward, backward = Place(EXPERTS, "", FORWARD), Place(EXPERTS, "", BACKWARD)
    output, number = Dim("N", case.output_dim), len(layer.activations)
    into, outof = (*rows, depth_dim, hidden), (*rows, hidden, output)
    inputs, values, outputs = (*rows, depth_dim), (*rows, hidden), (*rows, output)
    terms.multiply(forward, f"{label}wi", into, number)
    for _ in range(layer.num_outputs):
        terms.multiply(forward, f"{label}wo", outof)
        terms.add_up(sums[FORWARD], f"{label}wo", outof, outputs, case.activation_bytes)
    _add_elementwise(terms, case, layer, label, values, (*rows, *_output_dims(case)))
    if not case.train:
        return
    # The gradient of the inputs is the sum of all projections' before devices are added up.
    terms.multiply(backward, f"{label}wi, inputs", into, number)
    terms.add_up(sums[BACKWARD], f"{label}wi, inputs", into, inputs, case.activation_bytes)
    terms.multiply(backward, f"{label}wo, hidden values", outof, layer.num_outputs)
    for name, count, dims, weight, bias in (
        ("wi", number, into, (*experts, depth_dim, hidden), (*experts, hidden)),
        ("wo", layer.num_outputs, outof, (*experts, hidden, output), (*experts, output)),
    ):
        for _ in range(count):
            what, size = f"{label}{name}, weights", case.activation_bytes
            terms.einsum(backward, what, dims, weight, size, once=True)
            if layer.use_bias:
                biased = (*rows, bias[-1])
                what = f"{label}{name}, biases"
                terms.add_up(backward, what, biased, bias, size, once=True)


def _add_elementwise(
    terms: Terms, case: LayerCase, layer: FeedForwardCase, label: str, values: Dims, outputs: Dims
) -> None:
    """Adds the products of single values: activations, gates and dropout."""
    forward = sum(ACTIVATIONS[name][0] for name in layer.activations)
    backward = sum(ACTIVATIONS[name][1] for name in layer.activations)
    gates = len(layer.activations) - 1
    hidden_drops = int(layer.dropout and case.train)
    output_drops = int(layer.output_dropout and case.train)
    at, back = Place(EXPERTS, "", FORWARD), Place(EXPERTS, "", BACKWARD)
    terms.multiply(at, f"{label}activations", values, forward + gates + hidden_drops)
    terms.multiply(at, f"{label}output dropout", outputs, output_drops)
    if case.train:
        total = backward + 2 * gates + hidden_drops
        terms.multiply(back, f"{label}activations", values, total)
        terms.multiply(back, f"{label}output dropout", outputs, output_drops)


def _output_dims(case: LayerCase) -> Dims:
    """Returns the dimensions of the outputs of an expert for a token."""
    output = Dim("N", case.output_dim)
    number = case.experts.num_outputs
    return (output,) if number == 1 else (Dim("outputs", number), output)


def _at(level: LevelSizes, phase: str) -> Place:
    return Place(DISPATCH, level.case.name, phase)
