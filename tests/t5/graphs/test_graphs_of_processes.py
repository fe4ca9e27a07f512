"""Graphs of one process of a mesh; nothing is run, so no other process is needed."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from hmoe.compat.stack import tf
from hmoe.lowering import recording
from hmoe.lowering.lower import make_mesh_of_processes
from hmoe.t5.graphs import build
from hmoe.t5.graphs.decoding import DecodingGraph
from hmoe.t5.graphs.evaluation import EvaluationGraph
from hmoe.t5.graphs.model_settings import EVAL, PREDICT, SCORE, TRAIN, ModelSettings
from hmoe.t5.graphs.tracing import TraceGraph
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions.progress import ProgressHook
from hmoe.t5.sessions.session_settings import SessionSettings
from tests.t5 import tiny

CPU = "/job:worker/replica:0/task:0/device:CPU:0"
COLLECTIVES = ("CollectiveReduceV2", "CollectiveAllToAllV2", "CollectiveGatherV2")
TRACE = "trace"

Graph = TrainingGraph | EvaluationGraph | DecodingGraph | TraceGraph


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    folder = tmp_path_factory.mktemp("graphs")
    return tiny.make(folder, "hierarchical_tiny", "cpu_2x2", autostack=False).settings


def run_by_sessions(graph: Graph) -> list[tf.Tensor | tf.Operation]:
    """What the hooks and loops of `hmoe.t5.sessions` ask for."""
    if isinstance(graph, TrainingGraph):
        assert graph.stop is not None
        hook = ProgressHook(0, 1, "", SessionSettings(), graph)
        return [graph.train_op, graph.stop.all, *hook.before_run(None).fetches.values()]
    if isinstance(graph, TraceGraph):
        levels = [level for layer in graph.decisions for level in layer]
        return [*graph.tokens.values(), *(each for level in levels for each in level.values())]
    if isinstance(graph, EvaluationGraph):
        return list(graph.sums.values())
    return [*graph.predictions.values(), graph.below_zero]


def collectives(operations: Iterable[tf.Operation]) -> int:
    """Counts them outside loops: inside, each is made at once, whether anything needs it or not."""
    found = [each for each in operations if each.type in COLLECTIVES]
    return sum(each._get_control_flow_context() is None for each in found)


@pytest.mark.parametrize("mode", [TRAIN, EVAL, PREDICT, SCORE, TRACE])
def test_every_exchange_that_is_run_is_counted(settings: ModelSettings, mode: str) -> None:
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        mesh = make_mesh_of_processes(settings.mesh_shape, settings.layout_rules, 0, CPU)
        features = {n: tf.constant(rows) for n, rows in tiny.ids(tiny.BATCH).items()}
        if mode == TRACE:
            graph: Graph = build.build_trace_graph(settings, features, mesh)
        else:
            graph = build.build_graph(settings, features, mode, mesh)
        roots = run_by_sessions(graph)
        assert {id(each) for each in roots} <= {id(each) for each in graph.fetched}
        outside_loops = [each for each in mesh.exchanges.lines if not each.startswith("in a loop")]
        assert collectives(recording.needed(roots)) == len(outside_loops) > 0
