"""What devices can do: peak, memory and links, of known hardware, this machine or a user's."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_GIB = 2**30
# Size of the square matrices whose product measures this machine, and how often.
_MEASURED_SIZE, _MEASURED_TIMES = 1024, 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """A device, one of many that are alike.

    Attributes:
      name: its name.
      peak: multiplications and additions of matrix products, in 1/s: two for each multiplication.
      memory: bytes.
      fast: bytes that a device can send along one mesh axis inside a host or a TPU slice, in 1/s.
      slow: the same along an axis that leaves a host, in 1/s; of TPU slices the fast one.
      devices_per_host: devices that fast links join; None if they join all.
      source: where the figures are from.
    """

    name: str
    peak: float
    memory: float
    fast: float
    slow: float
    devices_per_host: int | None
    source: str

    def bandwidth(self, hosts: int) -> float:
        """Returns the bytes that a device can send along an axis over some hosts, in 1/s."""
        return self.fast if hosts < 2 else self.slow


_SUPERCOMPUTER = "Jouppi et al., A domain-specific supercomputer for training, CACM 63(7), 2020"
_OF_CORES = "a mesh device is one of a chip's two cores; an axis has two links, which they share"


def _tpu(name: str, peak: float, memory: float, axis: float, source: str) -> Hardware:
    return Hardware(
        name=name,
        peak=peak,
        memory=memory,
        fast=axis,
        slow=axis,
        devices_per_host=None,
        source=source,
    )


def _gpus(
    name: str, peak: float, memory: float, nvlink: float, net: float, source: str
) -> Hardware:
    return Hardware(
        name=name,
        peak=peak,
        memory=memory,
        fast=nvlink,
        slow=net,
        devices_per_host=8,
        source=source,
    )


_A100 = "NVIDIA A100 80GB SXM data sheet: 312 TFLOPS dense bfloat16, NVLink 600 GB/s both ways"
_H100 = "NVIDIA H100 SXM data sheet: 989 TFLOPS dense bfloat16, NVLink 900 GB/s both ways"
_ETHERNET = "100 Gbit/s Ethernet for a host of 8 (IEEE 802.3)"

KNOWN: Mapping[str, Hardware] = {
    each.name: each
    for each in (
        _tpu(
            "tpu-v2",
            46e12 / 2,
            8 * _GIB,
            2 * 496e9 / 8 / 2,
            f"{_SUPERCOMPUTER}: 46 TFLOPS bfloat16 and 16 GiB a chip, links of 496 Gbit/s; "
            f"{_OF_CORES}",
        ),
        _tpu(
            "tpu-v3",
            123e12 / 2,
            16 * _GIB,
            2 * 656e9 / 8 / 2,
            f"{_SUPERCOMPUTER}: 123 TFLOPS bfloat16 and 32 GiB a chip, links of 656 Gbit/s; "
            f"{_OF_CORES}",
        ),
        _tpu(
            "tpu-v4",
            275e12,
            32 * _GIB,
            2 * 50e9,
            "Jouppi et al., TPU v4, ISCA 2023 (arXiv 2304.01433): 275 TFLOPS bfloat16, 32 GiB, "
            "links of 50 GB/s, two for an axis",
        ),
        _tpu(
            "tpu-v5e",
            197e12,
            16e9,
            1600e9 / 8 / 2,
            "Google Cloud, TPU v5e (docs.cloud.google.com/tpu/docs/v5e): 197 TFLOPS bfloat16, "
            "16 GB, 1,600 Gbit/s a chip over the two axes of a torus",
        ),
        _tpu(
            "tpu-v5p",
            459e12,
            95e9,
            4800e9 / 8 / 3,
            "Google Cloud, TPU v5p (docs.cloud.google.com/tpu/docs/v5p): 459 TFLOPS bfloat16, "
            "95 GB, 4,800 Gbit/s a chip over the three axes of a torus",
        ),
        _gpus(
            "a100-infiniband",
            312e12,
            80e9,
            600e9 / 2,
            200e9 / 8,
            f"{_A100}; DGX A100 user guide: 8 x HDR InfiniBand of 200 Gbit/s for 8 GPUs",
        ),
        _gpus("a100-ethernet", 312e12, 80e9, 600e9 / 2, 100e9 / 8 / 8, f"{_A100}; {_ETHERNET}"),
        _gpus(
            "h100-infiniband",
            989e12,
            80e9,
            900e9 / 2,
            400e9 / 8,
            f"{_H100}; DGX H100 user guide: 8 x NDR InfiniBand of 400 Gbit/s for 8 GPUs",
        ),
        _gpus("h100-ethernet", 989e12, 80e9, 900e9 / 2, 100e9 / 8 / 8, f"{_H100}; {_ETHERNET}"),
    )
}
# A simulated mesh, whose devices share the processor and the memory of this machine.
THIS_MACHINE = "cpu"


def find(name_or_path: str, devices: int) -> Hardware:
    """Returns hardware by its name, or from a user's file.

    Args:
      name_or_path: one of KNOWN, THIS_MACHINE, or a JSON file.
      devices: devices of the mesh, which share this machine.

    Raises:
      ValueError: there is no such hardware, or the file does not describe any.
    """
    if name_or_path == THIS_MACHINE:
        return this_machine(devices)
    if name_or_path in KNOWN:
        return KNOWN[name_or_path]
    if os.path.exists(name_or_path) or os.sep in name_or_path or name_or_path.endswith(".json"):
        return _from_file(name_or_path)
    names = [*KNOWN, THIS_MACHINE]
    near = difflib.get_close_matches(name_or_path, names, n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
        f"--hardware: there is no hardware {name_or_path!r}{meant}. Known are {', '.join(names)}; "
        "a JSON file describes your own (docs/plan.md)"
    )


def check(name_or_path: str) -> None:
    """Raises ValueError if there is no such hardware; measures nothing."""
    if name_or_path != THIS_MACHINE:
        find(name_or_path, 1)


def this_machine(devices: int, measure: Callable[[], float] | None = None) -> Hardware:
    """Measures this machine, of which each device of a simulated mesh has its share.

    Args:
      devices: devices of the mesh.
      measure: returns the machine's operations in 1/s; by default of products of matrices.
    """
    peak = (measure or _measured_peak)()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    copied = _measured_copy()
    return Hardware(
        name=THIS_MACHINE,
        peak=peak / devices,
        memory=memory / devices,
        fast=copied / devices,
        slow=copied / devices,
        devices_per_host=None,
        source=f"measured on this machine now, shared by {devices} devices: products of float32 "
        "matrices, and copies in memory",
    )


def _measured_peak() -> float:
    matrix = np.ones([_MEASURED_SIZE, _MEASURED_SIZE], np.float32)
    seconds = _quickest(lambda: matrix @ matrix)
    return 2 * _MEASURED_SIZE**3 / seconds


def _measured_copy() -> float:
    rows = np.ones([_MEASURED_SIZE * 16, _MEASURED_SIZE], np.float32)
    return rows.nbytes / _quickest(lambda: rows.copy())


def _quickest(run: Callable[[], object]) -> float:
    found = []
    for _ in range(_MEASURED_TIMES):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return min(found)


def _from_file(path: str) -> Hardware:
    try:
        with open(path, encoding="utf-8") as file:
            given = json.load(file)
    except OSError as error:
        raise ValueError(f"--hardware: {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"--hardware: {path} is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"--hardware: {path} holds no object; {_needed()}")
    return _checked(path, given)


def _checked(path: str, given: dict[str, Any]) -> Hardware:
    fields = {field.name: field.type for field in dataclasses.fields(Hardware)}
    for name in given:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"--hardware: {path}: unknown field {name!r}{meant}; {_needed()}")
    for name in ("peak", "memory", "fast", "slow"):
        if name not in given:
            raise ValueError(f"--hardware: {path} lacks {name!r}; {_needed()}")
        _check_positive(path, name, given[name])
    if given.get("devices_per_host") is not None:
        _check_positive(path, "devices_per_host", given["devices_per_host"], kind=int)
    defaults = {"name": os.path.basename(path), "devices_per_host": None, "source": path}
    return Hardware(**{**defaults, **given})


def _check_positive(path: str, name: str, value: object, kind: type | tuple = (int, float)) -> None:
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not value > 0:  # type: ignore[operator]
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"--hardware: {path}: {name} is {value!r}; it must be {what} above 0")


def _needed() -> str:
    return (
        "it has peak (operations in 1/s, two a multiplication), memory (bytes), fast and slow "
        "(bytes in 1/s along an axis inside a host, and between hosts), and perhaps "
        "devices_per_host, name and source"
    )
