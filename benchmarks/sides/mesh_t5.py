"""A small T5 on a mesh of processes, its experts flat or at two levels; a step updates weights."""

from __future__ import annotations

import time

import numpy as np

import hmoe.t5  # noqa: F401  (registers what gin files name)
from benchmarks.sides import t5_settings
from benchmarks.sides.mesh_layer import FLAT, TWO
from hmoe.compat.stack import tf
from hmoe.t5.graphs import batch_features, build
from hmoe.t5.graphs.model_settings import TRAIN, ModelSettings
from hmoe.t5.sessions import processes, session_graph


class MeshT5:
    """The slice that this process has of a T5; a step trains it on one batch.

    Args:
      hosts: number of hosts, along which the outer level is split.
      inside: processes on each host, along which the inner level is split.
      levels: choices and capacity factor of each level; one for a flat mixture.
      rows: sequences of each process.
      length: tokens of inputs and of targets.
      d_model, hidden: depths of tokens and of experts.
      experts: of each process.
    """

    def __init__(
        self,
        hosts: int,
        inside: int,
        levels: list[tuple[int, float]],
        rows: int = 16,
        length: int = 32,
        d_model: int = 128,
        hidden: int = 128,
        experts: int = 1,
    ):
        count, flat = hosts * inside, len(levels) == 1
        shape, layout = FLAT if flat else TWO
        tokens = rows * length
        bindings = [
            f"utils.run.mesh_shape = '{shape.format(n=count, hosts=hosts, inside=inside)}'",
            f"utils.run.layout_rules = '{layout}'",
            "utils.run.mesh_devices = []",
            f"utils.run.batch_size = {count * rows}",
            f"utils.run.sequence_length = {{'inputs': {length}, 'targets': {length}}}",
            f"d_model = {d_model}",
            f"d_ff = {hidden}",
            f"d_kv = {d_model // 4}",
            "num_heads = 4",
            "num_blocks = 1",
            "dropout_rate = 0.0",
            f"num_experts = {count * experts}",
            f"num_outer_experts = {hosts}",
            f"num_inner_experts = {inside * experts}",
            f"group_size = {tokens}",
            f"inner_group_size = {int(tokens * levels[0][1])}",
            "hmoe.TopKRouter.policy_train = 'all'",
        ]
        if not flat:
            bindings.append(f"tpu_estimator_model_fn.outer_batch_size = {inside}")
        for name, (k, factor) in zip(("flat",) if flat else ("outer", "inner"), levels):
            bindings += [
                f"{name}/hmoe.Level.capacity_factor_train = {factor}",
                f"{name}/hmoe.TopKRouter.k = {k}",
            ]
        files = [
            "models/_size_tiny.gin",
            f"models/_{'one_level' if flat else 'hierarchical'}.gin",
            "models/_stacks_every_layer.gin",
            "layouts/one_device.gin",
        ]
        settings = t5_settings.from_gin(files, bindings)
        with session_graph.new_graph(seed=1):
            self._build(settings)

    def _build(self, settings: ModelSettings) -> None:
        self._engine = engine = processes.mesh(settings.mesh_shape, settings.layout_rules)
        rows = batch_features.rows_of_slice(settings, engine)
        number = settings.batch_size if rows is None else len(rows)
        features = {}
        for name, length in settings.sequence_length.items():
            draws = np.random.RandomState([engine.number, len(name)])
            ids = draws.randint(3, 259, [number, length]).astype(np.int32)
            # A constant would be folded into what is computed from it.
            variable = tf.get_variable(name, initializer=ids, trainable=False)
            features[name] = variable.read_value()
        graph = build.build_graph(settings, features, TRAIN, engine)
        self._step = [graph.loss, graph.train_op]
        self._operations = len(tf.get_default_graph().get_operations())
        config = tf.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        self._session = tf.Session(processes.target(""), config=processes.session_config(config))
        self._session.run(tf.global_variables_initializer())

    def describe(self) -> dict:
        """Returns operations of the graph, and what one step sends by the lowering's counters."""
        return {
            "operations": self._operations,
            "traffic": [list(each) for each in self._engine.traffic],
        }

    def step(self) -> float:
        """Returns the seconds of a step."""
        began = time.perf_counter()
        loss, _ = self._session.run(self._step, options=processes.run_options())
        seconds = time.perf_counter() - began
        assert np.isfinite(loss), loss
        return seconds
