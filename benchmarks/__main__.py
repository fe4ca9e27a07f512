"""Measures the layer beside its peers, and writes a page, a picture and all numbers."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys

from benchmarks import picture, report
from benchmarks.cases import all_cases
from benchmarks.measure import run_case
from benchmarks.workers import ROOT

RESULTS = ROOT / "benchmarks/results"


def main() -> int:
    """Runs cases one after another; 1 if one of them, or a side of one, had an error."""
    cases = all_cases()
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--cases",
        nargs="+",
        default=list(cases),
        metavar="CASE",
        help=f"any of {', '.join(cases)}, also with commas between them (default: all)",
    )
    parser.add_argument("--turns", type=int, default=7, help="steps of each side (default: 7)")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=RESULTS,
        help="folder of benchmarks.md, .json and .svg; cases that are in it already"
        " are replaced or stay (default: benchmarks/results)",
    )
    parser.add_argument(
        "--peers_python",
        default=str(ROOT / ".venv-peers/bin/python"),
        help="the interpreter of the peers' environment",
    )
    flags = parser.parse_args()
    asked = [name for words in flags.cases for name in words.split(",") if name]
    unknown = [name for name in asked if name not in cases]
    if unknown:
        parser.error(f"--cases: no case {unknown[0]!r}; there are {', '.join(cases)}")
    logs = RESULTS / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    pythons = {"own": sys.executable, "peers": flags.peers_python}
    failed = False
    for name in asked:
        say(f"{name}: {cases[name].title}")
        result = run_case(cases[name], flags.turns, pythons, logs, say)
        result["aims"] = report.judged(cases[name], result["sides"])
        result["run"] = described(flags.turns)
        failed |= any("error" in each for each in (result, *result["sides"].values()))
        say("\n".join(report.case_lines(result)))
        write(flags.out, {name: result}, list(cases))
    say(f"All of it is in {flags.out}/benchmarks.md")
    return int(failed)


def say(line: str) -> None:
    print(line, flush=True)


def write(folder: pathlib.Path, new: dict, order: list) -> None:
    """Adds cases to those that are in a folder, and writes its page and picture anew."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "benchmarks.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    results.update(new)
    results = {name: results[name] for name in order if name in results}
    file.write_text(json.dumps(results, indent=1) + "\n")
    (folder / "benchmarks.md").write_text(report.page(results))
    (folder / "benchmarks.svg").write_text(picture.picture(results))


def described(turns: int, module: str = "") -> dict:
    """What a reader needs to judge the numbers, or to have them again.

    Args:
      turns: how often each number was measured.
      module: the script that measures, where it is not `make bench`.
    """
    words = ["make", "bench", *_arguments(sys.argv[1:])]
    if module:
        words = ["python", "-m", module, *sys.argv[1:]]
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "platform": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
        "turns": turns,
        "command": shlex.join(words),
    }


def _arguments(arguments: list) -> list:
    return [f"ARGS={' '.join(arguments)}"] if arguments else []


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{os.cpu_count()} x {platform.processor()}"
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{len(names)} x {names[0] if names else platform.machine()} ({', '.join(wide)})"


def _commit() -> str:
    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", "hmoe", "benchmarks")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
