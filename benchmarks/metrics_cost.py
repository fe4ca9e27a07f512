"""What do the metrics of experts cost in a training step?

The same model, that of the default job unless flags say otherwise, is built three times, with
metrics off, brief and full, and trained in turns on one batch, with everything fetched that the
trainer fetches. A turn is a block of steps of each; what is told is the median over turns of the
ratio to the block without metrics of the same turn, in seconds and in processor seconds. While
other programs run, these are mostly noise; what is not is the share of all operations' time that
goes to those that only metrics need, of steps that TensorFlow traces.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time

import gin
import numpy as np

import hmoe.t5  # noqa: F401  (registers what gin files name)
from hmoe import compat
from hmoe.compat.stack import tf
from hmoe.layer.metrics import DETAILS
from hmoe.t5.commands import gin_config
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.graphs import build
from hmoe.t5.graphs.model_settings import TRAIN
from hmoe.t5.sessions import run_metrics, session_graph
from hmoe.t5.sessions.mesh_saver import MeshSaver

compat.behave_like_v1()


def _estimator_and_batch(files, bindings, batch):
    """The trainer of a configuration, and a batch of its data unless there is one already."""
    gin.clear_config()
    gin_config.read(files, bindings)
    gin_config.finish()
    taken = {}

    def take(estimator, vocabulary, sequence_length, batch_size, train_dataset_fn, *_, **__):
        taken["estimator"], taken["batch"] = estimator, batch
        if batch is None:
            with tf.Graph().as_default():
                rows = (
                    train_dataset_fn(
                        sequence_length=sequence_length,
                        vocabulary=vocabulary,
                        dataset_split="train",
                    )
                    .repeat()
                    .batch(batch_size)
                )
                features = tf.data.make_one_shot_iterator(rows).get_next()
                with tf.Session() as session:
                    taken["batch"] = session.run(features)

    with tempfile.TemporaryDirectory() as model_dir:
        T5Run(
            mode="train",
            model_dir=model_dir,
            say=lambda line: None,
            arguments={"train_model_fn": take},
        ).start()
    return taken["estimator"], taken["batch"]


class Trained:
    """A model that is trained, with metrics of one detail."""

    def __init__(self, detail, files, bindings, batch=None):
        setting = f'hmoe.HierarchicalMoE.metrics = "{detail}"'
        estimator, self.batch = _estimator_and_batch(files, [*bindings, setting], batch)
        with session_graph.new_graph(estimator.session.seed) as tf_graph:
            features = {
                name: tf.constant(value)
                for name, value in self.batch.items()
                if value.dtype != np.object_
            }
            graph = build.build_graph(estimator.settings, features, TRAIN)
            saver = MeshSaver(graph.lowering)
            self._session = tf.Session(graph=tf_graph, config=estimator.session.config())
            self._session.run(tf.global_variables_initializer())
            self._session.run(saver.to_slices)
            self.num_operations = len(tf_graph.get_operations())
        # As `hmoe.t5.sessions.progress.ProgressHook` has it.
        self._fetches = {
            ("", "loss"): graph.loss,
            ("", "learning_rate"): graph.learning_rate,
            **graph.sums,
        }
        self._train_op = graph.train_op
        self._only_metrics = self._operations_of_metrics()
        self._collector = run_metrics.SumCollector()

    def block(self, num_steps):
        """(seconds, processor seconds) of some steps."""
        start, processor = time.perf_counter(), time.process_time()
        for _ in range(num_steps):
            _, sums = self._session.run([self._train_op, self._fetches])
            self._collector.add(sums)
        return time.perf_counter() - start, time.process_time() - processor

    def _operations_of_metrics(self):
        """Names of the operations that nothing but metrics needs."""
        metrics = {
            key
            for key in self._fetches
            if key[0] and key[1].endswith(("/tokens", "/load", "reached"))
        }
        others = [tensor.op for key, tensor in self._fetches.items() if key not in metrics]
        needed = _with_ancestors([self._train_op, *others])
        whole = _with_ancestors([self._fetches[key].op for key in metrics])
        return {operation.name for operation in whole - needed}

    def traced_share(self, num_steps):
        """Of the time of all operations in some steps, the part of those only for metrics."""
        options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
        spent = {True: 0, False: 0}
        for _ in range(num_steps):
            found = tf.RunMetadata()
            self._session.run([self._train_op, self._fetches], options=options, run_metadata=found)
            for device in found.step_stats.dev_stats:
                for node in device.node_stats:
                    of_metrics = node.node_name in self._only_metrics
                    spent[of_metrics] += node.op_end_rel_micros - node.op_start_rel_micros
        return spent[True] / sum(spent.values())


def _with_ancestors(operations):
    """The operations and all that must run before them."""
    seen, left = set(), list(operations)
    while left:
        operation = left.pop()
        if operation not in seen:
            seen.add(operation)
            left += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    return seen


def measure(files, bindings, turns, steps):
    """Prints the medians."""
    sides = {}
    batch = None
    for detail in ("off", *(each for each in DETAILS if each != "off")):
        sides[detail] = Trained(detail, files, bindings, batch)
        batch = sides[detail].batch
        sides[detail].block(2)
    blocks = {detail: [] for detail in sides}
    order = list(sides)
    for turn in range(turns):
        # Each comes first, second and last as often as the others.
        for detail in order[turn % 3 :] + order[: turn % 3]:
            blocks[detail].append(sides[detail].block(steps))
    print(f"{turns} turns of {steps} steps each")
    for detail, side in sides.items():
        ratios = [
            [own[kind] / off[kind] - 1.0 for own, off in zip(blocks[detail], blocks["off"])]
            for kind in (0, 1)
        ]
        seconds, processor = (
            statistics.median(each[kind] for each in blocks[detail]) / steps for kind in (0, 1)
        )
        line = (
            f"  {detail:6} {seconds:.4f} s a step, {processor:.4f} processor seconds,"
            f" {side.num_operations} operations"
        )
        if detail != "off":
            quarters = [statistics.quantiles(each, n=4) for each in ratios]
            wall, cpu = ([f"{100 * quarter:+.1f} %" for quarter in each] for each in quarters)
            line += (
                f"; {wall[1]} ({wall[0]} to {wall[2]}) time,"
                f" {cpu[1]} ({cpu[0]} to {cpu[2]}) processor time"
            )
            line += f"; {100 * side.traced_share(turns):.2f} % of traced time"
        print(line, flush=True)


def main():
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layouts", nargs="+", default=["one_device", "cpu_2x2"])
    parser.add_argument("--gin_file", action="append", default=None)
    parser.add_argument("--gin_param", action="append", default=[])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="of a block")
    flags = parser.parse_args()
    print(
        f"TensorFlow {tf.__version__}, Python {platform.python_version()},"
        f" {platform.machine()}; medians, and quartiles in brackets"
    )
    for layout in flags.layouts:
        print(layout)
        files = [*(flags.gin_file or ["runs/default.gin"]), f"layouts/{layout}.gin"]
        measure(files, ["batch_size = 32", *flags.gin_param], flags.turns, flags.steps)


if __name__ == "__main__":
    main()
