"""Measures the cases that are asked for: `python -m benchmarks --help`."""
from __future__ import annotations

import argparse
import pathlib
import sys

from benchmarks import report
from benchmarks.cases import all_cases
from benchmarks.measure import run_case
from benchmarks.workers import ROOT


def main() -> int:
    """Runs cases one after another; 1 if one of them had an error."""
    cases = all_cases()
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=list(cases), default=list(cases))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--peers_python", default=str(ROOT / ".venv-peers/bin/python"),
                        help="the interpreter of the peers' environment")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    pythons = {"own": sys.executable, "peers": flags.peers_python}
    failed = False
    for name in flags.cases:
        print(f"{name}: {cases[name].title}", flush=True)
        result = run_case(cases[name], flags.turns, pythons, flags.out,
                          lambda line: print(line, flush=True))
        result["aims"] = report.aim_lines(cases[name], result)
        failed |= "error" in result
        print("\n".join(report.case_lines(result)), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
