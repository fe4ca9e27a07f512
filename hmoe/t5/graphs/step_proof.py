"""Proves a plan: lowers the real graph of its step, and compares what that does and sends.

The graph is lowered by the engine that training would use, for TPUs onto cores that are made up.
Nothing of it is run.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np

from hmoe import compat
from hmoe.compat.stack import mtf, tf
from hmoe.lowering import recording
from hmoe.lowering.placement import SharingPlacement
from hmoe.plan import counting
from hmoe.plan.costs import StepCosts, bytes_sent
from hmoe.t5.graphs import build
from hmoe.t5.graphs.model_settings import TRAIN, ModelSettings
from hmoe.t5.graphs.named_step import NamedStep, placeholders


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One number, counted in two ways.

    Attributes:
      what: what is counted, with its unit.
      planned: by the plan.
      lowered: in the graph that would run, or by closed formulas.
    """

    what: str
    planned: int
    lowered: int

    @property
    def is_equal(self) -> bool:
        """Whether both are the same."""
        return self.planned == self.lowered


def compare(
    step: NamedStep, settings: ModelSettings, costs: StepCosts, *, on_tpu: bool, packed: bool
) -> list[Comparison]:
    """Lowers the step of a plan, and compares.

    Args:
      step: the step that was planned.
      settings: the model's settings.
      costs: what was planned.
      on_tpu: whether it was planned for TPUs.
      packed: whether a sequence may hold several examples.

    Returns:
      The multiplications, and the bytes and collectives of each kind and axes.
    """
    with tf.Graph().as_default():
        compat.use_resource_variables()
        tf.train.create_global_step()
        mesh_impl = _mesh(settings, on_tpu)
        features = placeholders(settings, packed)
        graph = build.build_graph(settings, features, TRAIN, mesh_impl, add_up_sums=on_tpu)
        records = recording.run_by(mesh_impl.records, graph.fetched)
    multiplied = _multiplied(graph.lowering, mesh_impl)
    once = counting.Step(step.graph, step.counted.exported)
    whole = counting.count(
        once, settings.mesh_shape, settings.layout_rules, on_tpus=on_tpu, unused=True
    )
    # What is lowered, but neither run nor planned, is among them; a loop's body counts once.
    what = "multiplications in the whole graph"
    first = Comparison(what, whole.costs.multiplied(), multiplied)
    return [first, *_exchanges(costs, _sent(records, step.num_microbatches))]


def _mesh(settings: ModelSettings, on_tpu: bool) -> recording.Recorder:
    shape, layout = settings.mesh_shape, settings.layout_rules
    if not on_tpu:
        return recording.recorded(SharingPlacement)(shape, layout, [""] * shape.size)
    engine = recording.recorded(mtf.simd_mesh_impl.SimdMeshImpl)
    cores = _made_up_cores(shape.size)
    return engine(shape, layout, None, cores, logical_to_physical=list(range(shape.size)))


def _made_up_cores(number: int) -> object:
    """Returns TensorFlow's assignment of replicas to a row of cores of one host."""
    from tensorflow.python.tpu.device_assignment import device_assignment
    from tensorflow.python.tpu.topology import Topology

    places = np.array([[[core, 0, 0, 0] for core in range(number)]], np.int32)
    topology = Topology(mesh_shape=[number, 1, 1, 1], device_coordinates=places)
    return device_assignment(topology, computation_shape=[1, 1, 1, 1], num_replicas=number)


def _multiplied(lowering: mtf.Lowering, mesh_impl: mtf.MeshImpl) -> int:
    """Returns the multiplications of one device by Mesh TensorFlow's counters."""
    total = sum(value for key, value in lowering.counters if key == "einsum")
    # It counts einsums of one tensor too, which are sums and transposes.
    alone = [
        mtf.Shape(operation.inputs[0].shape.dims)
        for operation in counting.with_loops(lowering.graph.operations)
        if isinstance(operation, mtf.ops.EinsumOperation) and len(operation.inputs) == 1
    ]
    return (total - sum(mesh_impl.laid_out_size(shape) for shape in alone)) // mesh_impl.size


def _sent(records: Iterable[recording.Record], iterations: int) -> list[tuple[str, int, int]]:
    """Returns what is sent in collectives: their kind and axes, the bytes, and how often."""
    found = []
    for record in records:
        times = iterations if record.loops else 1
        size = bytes_sent(record.kind, record.size, record.group)
        found.append((_name(record.kind, record.axes), size * times, times))
    return found


def _name(kind: str, axes: tuple[str, ...]) -> str:
    return f"{kind} over {' and '.join(axes)}"


def _exchanges(costs: StepCosts, sent: list[tuple[str, int, int]]) -> list[Comparison]:
    planned = [(_name(each.kind, each.axes), each.size, each.count) for each in costs.exchanges]
    sides = [_totals(planned), _totals(sent)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    found = []
    for name in names:
        (size, count), (lowered_size, lowered_count) = (side[name] for side in sides)
        found.append(Comparison(f"{name}: bytes", size, lowered_size))
        found.append(Comparison(f"{name}: collectives", count, lowered_count))
    return found


def _totals(sent: list[tuple[str, int, int]]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
    for name, size, count in sent:
        found[name] = (found[name][0] + size, found[name][1] + count)
    return found
