"""What a mesh of processes costs: seconds, bytes, and the graph and memory of one process.

- Seconds a step, and to the first one, of the same work shared by 1, 2, 4 and 8 processes.
- The same of the default job, as `hmoe launch` trains it.
- Bytes that all processes send in a step, counted by the kernel at their sockets, beside what the
  lowering's counters say.
- Operations and memory of one process for larger and larger meshes, built and not run: they must
  not grow with the mesh.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.__main__ import RESULTS, described, say
from benchmarks.launched import trained
from benchmarks.mesh_pool import MeshPool

# Of a layer at two levels.
LEVELS = ((2, 1.25), (2, 1.0))
# Processes along the outer and along the inner axis.
MESHES = ((1, 1), (1, 2), (2, 2), (2, 4))
# Of the default job, whose outer batch is 2.
TRAINED = ((1, "rows:1;cols:1"), (2, "rows:1;cols:2"), (4, "rows:2;cols:2"), (8, "rows:2;cols:4"))
LARGE_MESHES = ((2, 2), (4, 4), (8, 8), (16, 16), (32, 16))
TOKENS, EXPERTS, D_MODEL, HIDDEN = 4096, 8, 256, 512
# Of one process, on meshes that are not run.
LARGE = {"tokens": 256, "experts": 1, "d_model": D_MODEL, "hidden": HIDDEN}


def main() -> int:
    """Measures, and writes and prints what came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes")
    parser.add_argument("--parts", nargs="+", default=list(_PARTS), choices=list(_PARTS))
    parser.add_argument("--steps", type=int, default=7, help="that are timed, after two")
    parser.add_argument(
        "--out", type=pathlib.Path, default=RESULTS, help="folder of processes.json"
    )
    flags = parser.parse_args()
    for folder in (RESULTS, flags.out):
        folder.mkdir(parents=True, exist_ok=True)
    file = flags.out / "processes.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    run = described(flags.steps, "benchmarks.processes")
    for part in flags.parts:
        rows = _PARTS[part](flags.steps)
        result[part] = {"run": run, "rows": rows}
        file.write_text(json.dumps(result, indent=1) + "\n")
    say("\n".join(table(result)))
    return 0


def _all_shared(steps: int) -> list[dict[str, Any]]:
    with MeshPool(RESULTS / "processes.log") as pool:
        return [shared(pool, *mesh, steps) for mesh in MESHES]


def _all_trained(steps: int) -> list[dict[str, Any]]:
    del steps
    return [trained(number, mesh) for number, mesh in TRAINED]


def _all_built(steps: int) -> list[dict[str, Any]]:
    del steps
    return [in_child(built, *mesh) for mesh in LARGE_MESHES]


_PARTS = {"shared": _all_shared, "trained": _all_trained, "built": _all_built}


def shared(pool: MeshPool, outer: int, inner: int, steps: int) -> dict[str, Any]:
    """Measures the same work, shared by processes on this machine."""
    number = outer * inner
    began = time.perf_counter()
    pool.start([None] * number)
    settings = {
        "hosts": outer,
        "inside": inner,
        "levels": LEVELS,
        "tokens": TOKENS // number,
        "experts": EXPERTS // number,
        "d_model": D_MODEL,
        "hidden": HIDDEN,
    }
    answers = pool.ask("build", module="mesh_layer", name="MeshLayer", settings=settings)
    first = max(seconds for (seconds,) in pool.ask("steps", number=1))
    to_first = time.perf_counter() - began
    pool.ask("steps", number=1)
    before = sum(pool.ask("sent"))
    seconds = pool.ask("steps", number=steps)[0]
    row = {
        "processes": number,
        "mesh": f"{outer} x {inner}",
        "seconds": statistics.median(seconds),
        "all seconds": seconds,
        "first step": first,
        "to the first step": to_first,
        "operations": answers[0]["operations"],
        "memory": max(pool.ask("memory")),
        "collectives": sum(each[2] for each in answers[0]["traffic"]),
        "by counters": sum(each[4] for answer in answers for each in answer["traffic"]),
        "counted": (sum(pool.ask("sent")) - before) / steps,
    }
    say(json.dumps(row))
    return row


def built(outer: int, inner: int) -> dict[str, Any]:
    """Builds the graph of one process of a mesh."""
    from benchmarks.mesh_process import most_memory
    from benchmarks.sides.mesh_layer import BuiltLayer

    before, began = most_memory(), time.perf_counter()
    layer = BuiltLayer(outer, inner, list(LEVELS), **LARGE)
    row = {
        "mesh": f"{outer} x {inner}",
        "seconds": time.perf_counter() - began,
        "operations": layer.operations,
        "memory": most_memory() - before,
    }
    say(json.dumps(row))
    return row


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a process of its own, whose memory it does not share with others."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)


def table(result: dict[str, Any]) -> list[str]:
    """Returns what came out, in Markdown."""
    heads = {
        "shared": "processes | mesh | s a step | s to the first | operations | memory, MB |"
        " collectives | MB sent: counters | counted",
        "trained": "the default job, processes | mesh | s a step | s to the first",
        "built": "mesh, built only | s | operations of one process | memory beyond the imports, MB",
    }
    lines: list[str] = []
    for part, head in heads.items():
        if part in result:
            lines += [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
            lines += [f"| {' | '.join(_CELLS[part](row))} |" for row in result[part]["rows"]]
            lines.append("")
    return lines


def _shared_cells(row: dict[str, Any]) -> list[str]:
    return [
        str(row["processes"]),
        row["mesh"],
        f"{row['seconds']:.3f}",
        f"{row['to the first step']:.1f}",
        f"{row['operations']:,}",
        f"{row['memory'] / 1e6:,.0f}",
        str(row["collectives"]),
        f"{row['by counters'] / 1e6:.2f}",
        f"{row['counted'] / 1e6:.2f}",
    ]


def _trained_cells(row: dict[str, Any]) -> list[str]:
    seconds, first = f"{row['seconds']:.2f}", f"{row['to the first step']:.0f}"
    return [str(row["processes"]), row["mesh"], seconds, first]


def _built_cells(row: dict[str, Any]) -> list[str]:
    memory = f"{row['memory'] / 1e6:.1f}"
    return [row["mesh"], f"{row['seconds']:.1f}", f"{row['operations']:,}", memory]


_CELLS = {"shared": _shared_cells, "trained": _trained_cells, "built": _built_cells}


def largest_difference(rows: Sequence[dict[str, Any]]) -> float:
    """Returns the largest share by which counted bytes differ from those of the counters."""
    found = [row for row in rows if row["by counters"]]
    return max(abs(row["counted"] / row["by counters"] - 1) for row in found)


if __name__ == "__main__":
    sys.exit(main())
