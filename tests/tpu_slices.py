"""TPU slices made up without a TPU: their cores, what fits on them, and a session's context."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
from absl import flags
from tensorflow.python.tpu.device_assignment import device_assignment
from tensorflow.python.tpu.topology import Topology

from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs.model_settings import ModelSettings
from tests.gin import configs

CHIPS = {
    8: (2, 2),
    32: (4, 4),
    128: (8, 8),
    256: (8, 16),
    512: (16, 16),
    1024: (16, 32),
    2048: (32, 32),
}

# One block of the smallest depth; as many experts as the slice has places for.
SHRUNK = (
    'utils.run.sequence_length = {"inputs": 8, "targets": 8}',
    "utils.run.train_steps = 1",
    "num_blocks = 1",
    "d_model = 8",
    "d_ff = 4",
    "num_heads = 2",
    "d_kv = 4",
    "group_size = 8",
    "inner_group_size = 8",
)


def axes_of(num_cores: int) -> list[int]:
    """The sizes of the axes `cols` and `rows`, as the gin file of a slice's layout has them."""
    text = configs.text(f"layouts/v3-{num_cores}.gin")
    return [int(size) for size in re.search(r"cols:(\d+);rows:(\d+);", text).groups()]


def layout_of(num_cores: int) -> tuple[str, list[str]]:
    """The gin file of a slice's layout, and bindings of a model and a batch that just fit on it."""
    cols, rows = axes_of(num_cores)
    return f"layouts/v3-{num_cores}.gin", [
        *SHRUNK,
        f"utils.run.batch_size = {num_cores * 2}",
        f"num_outer_experts = {cols}",
        f"num_inner_experts = {rows}",
    ]


def topology(num_cores: int) -> Topology:
    """Hosts of 2 x 2 chips of 2 cores each."""
    width, height = CHIPS[num_cores]
    hosts = [
        [[x + i, y + j, 0, core] for j in range(2) for i in range(2) for core in range(2)]
        for y in range(0, height, 2)
        for x in range(0, width, 2)
    ]
    return Topology(mesh_shape=[width, height, 1, 2], device_coordinates=np.array(hosts, np.int32))


def assignment(num_cores: int):
    """Each core is a replica."""
    return device_assignment(
        topology(num_cores), computation_shape=[1, 1, 1, 1], num_replicas=num_cores
    )


@dataclasses.dataclass(frozen=True)
class Context:
    """What `TPUEstimator` tells a model function of the slice that it runs on."""

    num_replicas: int

    @property
    def device_assignment(self):
        return assignment(self.num_replicas)

    @property
    def num_hosts(self) -> int:
        return self.num_replicas // 8

    def tpu_host_placement_function(self, host_id: int) -> str:
        return f"/job:worker/task:{host_id}/device:CPU:0"


class _OneVariable:
    """A variable of which one core's slice alone is there; all cores run the same program."""

    def __init__(self, variable: mtf.Variable, mesh_impl: mtf.MeshImpl):
        self._variable = variable
        self._slice = tf.get_variable(
            f"{variable.name}_slice",
            mesh_impl.slice_shape(variable.shape),
            variable.slice_dtype,
            initializer=tf.zeros_initializer(),
            collections=[],
        )
        self.laid_out_tensor = mesh_impl.LaidOutTensor([self._slice])
        self.copy_master_to_slices = self.copy_slices_to_master = tf.no_op()

    def assign_to_slices(self, assign_fn, values):
        return assign_fn(self._variable, self._slice, values[0])


class ProgramOfCores(mtf.simd_mesh_impl.SimdMeshImpl):
    """Makes the program that all cores run, without a variable for each core to hold.

    Those are most of the time that lowering takes: 512 of each parameter, and a copy of each.
    """

    LaidOutVariable = _OneVariable


def engine(
    settings: ModelSettings,
    num_cores: int,
    kind: type[mtf.MeshImpl] = mtf.simd_mesh_impl.SimdMeshImpl,
) -> mtf.MeshImpl:
    """The mesh of a slice, its cores arranged as T5's own model function arranges them."""
    # Mesh TensorFlow asks absl for the cores of a chip, and absl then for the command line.
    flags.FLAGS.mark_as_parsed()
    order = mtf.simd_mesh_impl.auto_logical_to_physical_tpu(
        settings.mesh_shape.to_integer_list, [int(size) for size in topology(num_cores).mesh_shape]
    )
    return kind(
        settings.mesh_shape,
        settings.layout_rules,
        None,
        assignment(num_cores),
        logical_to_physical=order,
    )
