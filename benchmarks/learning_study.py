"""Do two levels of experts learn as well as one, and what do they specialize in?

Trains twins of equal multiplications a token (a dense model, 16 experts flat, 4 x 4, 16 x 1 and
1 x 16) with the same data and seeds, by the trainer itself, each on one core; plans what each sends
over the axes of a mesh; and writes docs/learning.md's tables and picture. A run that is done is not
done again: the folder of results may be filled in several sittings.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time

from benchmarks import learning_page
from benchmarks.__main__ import described
from benchmarks.learning_twins import LONG_DENSE, TASKS, TWINS, Run, files_and_bindings, result

STEPS, SEEDS = 1000, (1, 2, 3, 4, 5)
LAYOUT = "layouts/cpu_2x2.gin"


def planned(folder, run):
    """What `hmoe plan` says of a twin on a mesh of 2 x 2, from its file if it is there.

    None for one that the mesh cannot share: a level of one expert cannot be split.
    """
    path = folder / f"{run.name}.plan.json"
    if not path.exists():
        files, bindings = files_and_bindings(run)
        words = ["plan", "--json", *[f"--gin_file={file}" for file in [*files, LAYOUT]]]
        words += [f"--gin_param={binding}" for binding in bindings]
        command = [sys.executable, "-m", "hmoe.cli.main", *words]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode not in (0, 2):
            raise RuntimeError(ended.stderr)
        path.write_text(ended.stdout or "null")
    return json.loads(path.read_text())


def runs(seeds, steps, tasks):
    """The runs, seed by seed, so that what is there can be compared early."""
    return [
        Run(task, twin, seed, steps, ablates=seed == seeds[0])
        for seed in seeds
        for task in tasks
        for twin in TWINS
    ]


def done(folder, wanted, workers):
    """The results of runs, in order, done by processes that have a core each."""
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in sorted(os.sched_getaffinity(0))[:workers]:
        cores.put(core)
    with concurrent.futures.ProcessPoolExecutor(workers, context, _pin, (cores,)) as pool:
        waiting = {pool.submit(result, folder, run): run for run in wanted}
        for number, future in enumerate(concurrent.futures.as_completed(waiting), start=1):
            loss = future.result()["cross_entropy"]
            print(f"{number} of {len(wanted)}: {waiting[future].name}: {loss:.4f}", flush=True)
        return [future.result() for future in waiting]


def _pin(cores):
    os.sched_setaffinity(0, {cores.get()})


def main():
    """Does the runs that are not done yet, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("runs/learning_study"))
    parser.add_argument("--out", type=pathlib.Path, help="folder of the page (default: results)")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    flags = parser.parse_args()
    flags.results.mkdir(parents=True, exist_ok=True)
    began = time.time()
    wanted = runs(flags.seeds, flags.steps, flags.tasks)
    results = done(flags.results, wanted, flags.workers)
    plans = {
        task: {
            name: planned(flags.results, Run(task, name, flags.seeds[0], flags.steps))
            for name in TWINS
            if name != LONG_DENSE  # a step of it is one of the short one
        }
        for task in flags.tasks
    }
    print(f"All runs and plans are done, in {time.time() - began:.0f} s")
    run = described(1, "benchmarks.learning_study")
    learning_page.write(flags.out or flags.results, results, plans, run)


if __name__ == "__main__":
    main()
