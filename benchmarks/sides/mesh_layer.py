"""A layer on a mesh of processes: flat, or at two levels, with equal experts and slots."""

from __future__ import annotations

import time

import numpy as np

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.lowering import lower
from hmoe.t5.sessions import processes, session_graph

FLAT = ("all:{n}", "batch:all;experts:all")
TWO = ("rows:{inside};cols:{hosts}", "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows")


class MeshLayer:
    """The slice that this process has of a layer; a step is a forward and a backward pass.

    Args:
      hosts: number of hosts, along which the outer level is split.
      inside: processes on each host, along which the inner level is split.
      levels: choices and capacity factor of each level; one for a flat mixture.
      tokens: of each process, which are one group.
      d_model, hidden: depths of tokens and of experts.
      experts: of each process.
    """

    def __init__(
        self,
        hosts: int,
        inside: int,
        levels: list[tuple[int, float]],
        tokens: int,
        d_model: int,
        hidden: int,
        experts: int = 1,
    ):
        self._hosts, self._inside, self._levels = hosts, inside, levels
        self._tokens, self._hidden, self._experts = tokens, hidden, experts
        shape, layout = FLAT if len(levels) == 1 else TWO
        self._shape = shape.format(n=hosts * inside, hosts=hosts, inside=inside)
        self._layout = layout
        outer_batch = 1 if len(levels) == 1 else inside
        names = ("outer_batch", "batch", "length", "d_model")
        batch = hosts * inside // outer_batch
        self._dims = [
            mtf.Dimension(*each) for each in zip(names, (outer_batch, batch, tokens, d_model))
        ]
        with session_graph.new_graph(seed=1):
            self._build()

    def _build(self) -> None:
        named = mtf.Graph()
        mesh = mtf.Mesh(named, "mesh")
        self._engine = engine = self._make_engine()
        shape = mtf.Shape(self._dims)
        inputs, direction = (self._given(mesh, name, shape) for name in ("inputs", "direction"))
        result = self._layer()(
            inputs,
            self._dims[-1],
            train=True,
            mesh_shape=self._shape,
            layout=self._layout,
            variable_dtype=mtf.VariableDType(tf.float32, tf.float32, tf.float32),
        )
        objective = result.loss + mtf.reduce_sum(result.outputs * direction)
        sources = [inputs, *(v.outputs[0] for v in named.trainable_variables)]
        gradients = mtf.gradients([objective], sources)
        lowering = lower.lower(objective, engine)
        self._counters = dict(lowering.counters)
        self._step = self._all_of(lowering, [objective, *gradients])
        initialize = tf.global_variables_initializer()
        engine.finish([self._step, initialize])
        self.operations = len(tf.get_default_graph().get_operations())
        self._open(initialize)

    def _make_engine(self) -> mtf.MeshImpl:
        return processes.mesh(
            mtf.convert_to_shape(self._shape), mtf.convert_to_layout_rules(self._layout)
        )

    def _open(self, initialize: tf.Operation) -> None:
        """Makes the session, with initial values."""
        config = tf.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        self._session = tf.Session(processes.target(""), config=processes.session_config(config))
        # Without the options of a mesh: TensorFlow tells apart by their count the runs that have
        # them, from the first that the processes make together.
        self._session.run(initialize)

    def _given(self, mesh: mtf.Mesh, name: str, shape: mtf.Shape) -> mtf.Tensor:
        """Returns numbers that each process draws for its own slice."""
        size = self._engine.slice_shape(shape)
        draws = np.random.RandomState([self._engine.number, len(name)]).normal(size=size)
        with tf.device(self._engine.device):
            own = tf.get_variable(
                name, initializer=draws.astype(np.float32), trainable=False, use_resource=True
            )
            laid_out = self._engine.LaidOutTensor([own.read_value()])
        return mtf.import_laid_out_tensor(mesh, laid_out, shape)

    def _layer(self) -> hmoe.HierarchicalMoE:
        numbers = [self._hosts, self._inside * self._experts]
        if len(self._levels) == 1:
            numbers = [self._hosts * self._inside * self._experts]
        arriving, levels = self._tokens, []
        for name, number, (k, factor) in zip(("outer", "inner"), numbers, self._levels):
            levels.append(
                hmoe.Level(
                    name=name,
                    num_experts=number,
                    group_size=arriving,
                    capacity_factor_train=factor,
                    min_capacity=1,
                    router=hmoe.TopKRouter(k=k, policy_train="all"),
                )
            )
            arriving = int(arriving * factor)
        experts = hmoe.FeedForwardExperts(hidden_size=self._hidden)
        return hmoe.HierarchicalMoE(levels=levels, experts=experts, exact_groups=True)

    def _all_of(self, lowering: mtf.Lowering, tensors: list[mtf.Tensor]) -> tf.Tensor:
        """Returns a number that depends on this process's slices of all tensors."""
        sums = []
        with tf.device(self._engine.device):
            for tensor in tensors:
                laid_out = lowering.tensors[tensor].to_laid_out_tensor()
                sums.append(tf.reduce_sum(laid_out.tensor_list[0]))
            return tf.add_n(sums)

    def describe(self) -> dict:
        """Returns operations of the graph, and what one step sends by the lowering's counters."""
        return {
            "operations": self.operations,
            "traffic": [list(each) for each in self._engine.traffic],
            "counters": {k: v for k, v in self._counters.items() if k.startswith("all")},
        }

    def step(self) -> float:
        """Returns the seconds of a step."""
        began = time.perf_counter()
        found = self._session.run(self._step, options=processes.run_options())
        seconds = time.perf_counter() - began
        assert np.isfinite(found), found
        return seconds


class BuiltLayer(MeshLayer):
    """A layer whose graph is built and never run, so that the mesh can be as large as one likes."""

    def _make_engine(self) -> mtf.MeshImpl:
        return lower.make_mesh_of_processes(
            mtf.convert_to_shape(self._shape),
            mtf.convert_to_layout_rules(self._layout),
            0,
            "/job:worker/replica:0/task:0/device:CPU:0",
        )

    def _open(self, initialize: tf.Operation) -> None:
        del initialize
