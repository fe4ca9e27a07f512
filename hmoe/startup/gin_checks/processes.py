"""Whether a configuration can be run by many processes, each with one slice of the mesh."""

from __future__ import annotations

import math

from hmoe.startup.gin_checks import input_files, master, mesh
from hmoe.startup.gin_reading import Reading
from hmoe.startup.request import Request
from hmoe.startup.workers import Workers


def check(reading: Reading, request: Request) -> list[str]:
    """Checks the configuration of a command that many processes run; those of others pass.

    Returns:
      Sentences about what has no effect.

    Raises:
      ValueError: the processes cannot share this run.
    """
    workers = request.workers
    if workers is None:
        return []
    check_size(reading, len(workers.addresses), f"{workers.given_by} has {workers.count}")
    _check_master(reading, workers)
    if input_files.reads_standard_input(reading, request):
        raise ValueError(
            "many processes cannot share a prompt or standard input; give a text, or a file that "
            "all of them find with --input_file (hmoe launch makes one of standard input)"
        )
    devices = mesh.named_devices(reading)
    return [f"{devices} has no effect with {workers.given_by}"] if devices else []


def num_slices(reading: Reading) -> int | None:
    """Returns the number of slices of the mesh; None where gin does not show it."""
    shape = mesh.shape_of(reading)
    return None if shape is None else math.prod(shape.values())


def check_size(reading: Reading, count: int, given: str) -> None:
    """Raises ValueError unless there is a process for each slice of the mesh, as far as gin shows.

    Args:
      reading: the configuration.
      count: the number of processes.
      given: how it is given, for the message, such as "-n is 3".
    """
    shape = mesh.shape_of(reading)
    size = num_slices(reading)
    if shape is None or size == count:
        return
    raise ValueError(
        f"{given}, but the mesh {mesh.text_of(shape)!r} (utils.run.mesh_shape) has {size} "
        f"slice{'s' * (size != 1)}; a run needs a process for each: start {size}, or bind another "
        "mesh"
    )


def _check_master(reading: Reading, workers: Workers) -> None:
    binding = reading.bound(master.ADDRESS)
    value = reading.literal(master.ADDRESS, "")
    if binding is not None and value != "":
        raise ValueError(
            f"{reading.resolve(binding).place}: {master.ADDRESS} is {value!r}, the server of a run "
            f"of one process; leave it out, or {workers.given_by}"
        )
