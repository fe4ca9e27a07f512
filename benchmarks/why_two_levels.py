"""Why two levels: a flat mixture and two levels of experts on hosts with slow links between them.

Hosts are network namespaces of this machine (`namespaces`; root, iproute2 and util-linux are
needed), fast inside, with a link of a limited rate each. The same layer, and a small T5, with equal
experts and equal slots per expert, are run on them at several rates. What crosses the links is
counted there, beside what arithmetic says (`slow_links`).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
from typing import Any

from benchmarks import mesh_pool, namespaces, slow_links, two_levels_page
from benchmarks.__main__ import RESULTS, described, say
from benchmarks.slow_links import Level

# Two slots of an expert for each token, in all of them.
VARIANTS = {
    "flat": (Level(2, 2.0),),
    "two levels, top-2 of hosts": (Level(2, 2.0), Level(2, 1.0)),
    "two levels, one host": (Level(1, 1.0), Level(2, 2.0)),
}
# (hosts, processes on each).
PLACES = ((2, 4), (4, 2), (8, 2))
# Megabits a second; 0 for no limit.
RATES = (0, 500, 100, 20)
# Sides of `benchmarks.sides`: module, class, settings.
WORK = {
    "layer, 512 tokens": ("mesh_layer", "MeshLayer", {"tokens": 512, "d_model": 256}),
    "layer, 32 tokens": ("mesh_layer", "MeshLayer", {"tokens": 32, "d_model": 256}),
    "T5": ("mesh_t5", "MeshT5", {"rows": 8, "length": 32, "d_model": 128}),
}


def main() -> int:
    """Measures, and writes the page, the picture and all numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.why_two_levels")
    parser.add_argument("--places", nargs="+", default=[f"{h}x{i}" for h, i in PLACES])
    parser.add_argument("--rates", nargs="+", type=int, default=list(RATES))
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument(
        "--steps", type=int, default=5, help="that are timed, after one that is not"
    )
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="docs to renew the page")
    flags = parser.parse_args()
    lack = namespaces.missing()
    if lack:
        print(f"why_two_levels: {lack}", file=sys.stderr)
        return 1
    RESULTS.mkdir(parents=True, exist_ok=True)
    run = described(flags.steps, "benchmarks.why_two_levels")
    with mesh_pool.MeshPool(RESULTS / "why_two_levels.log") as pool:
        for place in flags.places:
            hosts, inside = map(int, place.split("x"))
            with namespaces.Network(hosts) as network:
                pool.start([host for host in network.hosts for _ in range(inside)])
                for work in flags.work:
                    for variant in VARIANTS:
                        rows = measure(pool, network, inside, work, variant, flags)
                        two_levels_page.add(flags.out, rows, run)
    return 0


def measure(
    pool: mesh_pool.MeshPool,
    network: namespaces.Network,
    inside: int,
    work: str,
    variant: str,
    flags: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Builds a variant on hosts, runs it at all rates, and returns a row for each."""
    hosts, levels = len(network.hosts), VARIANTS[variant]
    module, name, settings = WORK[work]
    settings = {"hosts": hosts, "inside": inside, "levels": levels, "hidden": 256, **settings}
    network.limit(None)
    (built, *_) = pool.ask("build", module=module, name=name, settings=settings)
    pool.ask("steps", number=2)
    rows = []
    for megabits in flags.rates:
        network.limit(megabits * 1e6 or None)
        pool.ask("steps", number=1)
        before = network.sent()
        seconds = pool.ask("steps", number=flags.steps)[0]
        rows.append(
            {
                "work": work,
                "variant": variant,
                "hosts": hosts,
                "inside": inside,
                "megabits": megabits,
                "seconds": statistics.median(seconds),
                "all seconds": seconds,
                # Of all hosts, in one step.
                "counted": (network.sent() - before) / flags.steps,
                "by counters": slow_links.counted_crossing(built["traffic"], hosts, inside)
                * hosts
                * inside,
                "by arithmetic": _by_arithmetic(hosts, inside, levels, settings),
                "messages": slow_links.crossing(hosts, inside, levels, 1, 1).messages,
                "collectives": sum(each[2] for each in built["traffic"]),
            }
        )
        say(json.dumps({key: rows[-1][key] for key in list(rows[-1]) if key != "all seconds"}))
    return rows


def _by_arithmetic(
    hosts: int, inside: int, levels: tuple[Level, ...], settings: dict[str, Any]
) -> float | None:
    """Returns the bytes of tokens over all links; None for a T5, which sends gradients too."""
    if "tokens" not in settings:
        return None
    size = slow_links.crossing(hosts, inside, levels, settings["tokens"], settings["d_model"]).size
    return size * hosts * inside


if __name__ == "__main__":
    sys.exit(main())
