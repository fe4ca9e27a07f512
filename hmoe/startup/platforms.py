"""The kind of machine that a configuration is for."""

from __future__ import annotations

CPU, GPU, TPU = "cpu", "gpu", "tpu"
PLATFORMS = (CPU, GPU, TPU)


def platform_of(asked: str | None, mesh_devices: object) -> str:
    """Returns the platform that a training step is counted for.

    On CPUs and GPUs a run names a device for each slice of its mesh, of one kind that counts like
    the other. Layouts for TPUs name none, and neither does Mesh TensorFlow by itself.

    Args:
      asked: the platform that the user asked for, if any.
      mesh_devices: gin's `utils.run.mesh_devices`.
    """
    if asked is not None:
        return asked
    return TPU if mesh_devices is None else CPU
