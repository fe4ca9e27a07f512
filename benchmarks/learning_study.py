"""Do two levels of experts learn as well as one, and what do they specialize in?

Trains twins of equal multiplications a token (a dense model, 16 experts flat, 4 x 4, 16 x 1 and
1 x 16) with the same data and seeds, by the trainer itself, and compares held-out cross entropy and
exact match; two levels with one by a test of equivalence. A run that is done is not done again: the
folder of results may be filled in several sittings.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import time

import gin

import hmoe.t5  # noqa: F401  (registers what gin files name)
from benchmarks.equivalence import equivalence, interval
from hmoe import compat
from hmoe.analysis import traces
from hmoe.analysis.information import information
from hmoe.startup.console import Console
from hmoe.startup.request import Request, TraceFlags
from hmoe.t5.commands import gin_config, trace
from hmoe.t5.commands.evaluate import run_evaluation
from hmoe.t5.commands.t5_run import T5Run

compat.behave_like_v1()

STEPS, SEEDS = 400, (1, 2, 3, 4, 5)
# A difference of the loss that counts as none, fixed before the first run: 1 % of the flat one's.
MARGIN = 0.01
# The dense twin goes on, to see how many steps it needs for the loss of the others.
DENSE_FACTOR, DENSE_EVERY = 2, 50
TASKS = {
    "formats": (),
    "names": (
        "tasks/cldr_names.gin",
        (
            "hmoe.NameSettings.languages = ['ar', 'cs', 'de', 'el', 'en', 'es', 'fa', 'fi', 'fr',"
            " 'he', 'hi', 'hu', 'id', 'it', 'ja', 'ko', 'nl', 'pl', 'pt', 'ru', 'sv', 'tr', 'uk',"
            " 'zh']"
        ),
    ),
}
MODEL = (
    "d_model = 64",
    "d_ff = 128",
    "d_ff_wide = 160",
    "num_blocks = 1",
    "num_heads = 2",
    "utils.run.keep_checkpoint_max = 100",
    "mesh_eval_dataset_fn.num_eval_examples = 512",
    "hmoe.Session.log_every_steps = 50",
)
# Gin files and bindings of each twin. All have 1.25 slots a token in training and 2 in evaluation.
VARIANTS = {
    "dense": (["models/_dense.gin"], []),
    "16 flat": (["models/_one_level.gin"], []),
    "4 x 4": ([], []),
    "16 x 1": ([], ["num_outer_experts = 16", "num_inner_experts = 1"]),
    "1 x 16": (
        [],
        [
            *("num_outer_experts = 1", "num_inner_experts = 16"),
            "inner/hmoe.Level.capacity_factor_train = 1.25",
            "inner/hmoe.Level.capacity_factor_eval = 2.0",
        ],
    ),
}
FLAT, TREE = "16 flat", "4 x 4"


def configure(task, variant, seed, steps):
    """Reads the configuration of one run."""
    gin.clear_config()
    files, bindings = VARIANTS[variant]
    every = min(DENSE_EVERY, steps // DENSE_FACTOR if variant == "dense" else steps)
    more = [f"train_steps = {steps}", f"save_every_steps = {every}"]
    if TASKS[task]:
        files = [*files, TASKS[task][0]]
        more.append(TASKS[task][1])
    seeds = [
        f"hmoe.Session.seed = {seed}",
        f"mesh_train_dataset_fn.seed = {seed}",
        *([] if variant == "dense" else [f"hmoe.HierarchicalMoE.seed = {seed}"]),
    ]
    read = ["runs/default.gin", "layouts/one_device.gin", *files]
    gin_config.read(read, [*MODEL, *seeds, *more, *bindings])
    gin_config.finish()


def say(line):
    """Prints a line at once."""
    print(line, flush=True)


def run_one(folder, task, variant, seed, steps):
    """The result of a run, from its file if it is done."""
    label = f"{task}-{variant.replace(' ', '')}-seed_{seed}"
    path = folder / f"{label}.json"
    if path.exists():
        return json.loads(path.read_text())
    model_dir = folder / "models" / label
    shutil.rmtree(model_dir, ignore_errors=True)
    print(f"== {label}", flush=True)
    start, is_dense = time.time(), variant == "dense"
    configure(task, variant, seed, steps * (DENSE_FACTOR if is_dense else 1))
    arguments = {"dataset_split": "train"}
    T5Run(mode="train", model_dir=str(model_dir), say=say, arguments=arguments).start()
    request = Request(command="eval", model_dir=str(model_dir))
    console = Console()
    if is_dense:
        with gin.unlock_config():
            gin.bind_parameter("utils.run.eval_checkpoint_step", "all")
    run_evaluation(request, console)
    result = {"task": task, "variant": variant, "seed": seed, "steps": steps}
    result["curve"] = held_out(model_dir)
    result.update(result["curve"][str(steps)])
    if not is_dense:
        trace.trace_held_out(request, console, TraceFlags())
        result["information"] = specialization(model_dir / f"trace-{steps}.parquet")
    result["seconds"] = round(time.time() - start)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def held_out(model_dir):
    """Cross entropy and exact match of held-out examples, by step."""
    (path,) = model_dir.glob("*_eval/metrics.jsonl")
    found = {}
    for line in path.read_text().splitlines():
        numbers = json.loads(line)
        (exact,) = [
            value
            for name, value in numbers.items()
            if name.endswith("/exact_match") and "=" not in name
        ]
        found[str(numbers["step"])] = {
            "cross_entropy": numbers["eval/cross_ent_loss"],
            "exact_match": exact,
            "dropped": {
                name.split("/")[2]: value
                for name, value in numbers.items()
                if name.startswith("eval/experts/") and name.endswith("fraction_tokens_dropped")
            },
        }
    return found


def specialization(path):
    """The share of the label's entropy that each level of each layer knows, with its z."""
    found = traces.read(str(path))
    return {
        layer.name: [
            {"share": known.share(each), "z": each.z}
            for known in [information(found, layer.name, "language")]
            for each in [*known.levels, known.given_token]
        ]
        for layer in found.manifest.layers
    }


def rows(results):
    """Lines of Markdown: a row for each twin of each task."""
    lines = [
        "| task | twin | cross entropy held out | exact match, % | dropped, % |",
        "|---|---|---|---|---|",
    ]
    for task in TASKS:
        for variant in VARIANTS:
            of_twin = _of(results, task, variant)
            if len(of_twin) < 2:
                continue
            cells = [
                _cell([each["cross_entropy"] for each in of_twin], 4),
                _cell([each["exact_match"] for each in of_twin], 1),
                ", ".join(
                    f"{level} {100 * sum(r['dropped'][level] for r in of_twin) / len(of_twin):.2f}"
                    for level in of_twin[0]["dropped"]
                ),
            ]
            lines.append(f"| {task} | {variant} | {' | '.join(cells)} |")
    return lines


def _of(results, task, variant):
    return [each for each in results if (each["task"], each["variant"]) == (task, variant)]


def _cell(values, digits):
    found = interval(values)
    return f"{found.mean:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def verdicts(results):
    """A sentence for each task: whether two levels are equivalent to one."""
    for task in TASKS:
        tree, flat = (
            {each["seed"]: each["cross_entropy"] for each in _of(results, task, variant)}
            for variant in (TREE, FLAT)
        )
        seeds = sorted(set(tree) & set(flat))
        if len(seeds) < 2:
            continue
        reference = [flat[seed] for seed in seeds]
        margin = MARGIN * sum(reference) / len(reference)
        found = equivalence([tree[seed] for seed in seeds], reference, margin)
        difference = found.difference
        yield (
            f"{task}: {TREE} minus {FLAT} is {difference.mean:+.4f} nats ({difference.low:+.4f} to"
            f" {difference.high:+.4f}, 90 %); the margin is {margin:.4f}, p = {found.p_value:.3g}:"
            f" {'equivalent' if found.holds else 'equivalence is not shown'}"
        )
        yield from _dense_steps(results, task)


def _dense_steps(results, task):
    """Sentences: the steps that the dense twin needs for the loss of another, mean over seeds."""
    dense = {each["seed"]: each["curve"] for each in _of(results, task, "dense")}
    for variant in (FLAT, TREE):
        needed = [
            _first_step(dense[each["seed"]], each["cross_entropy"])
            for each in _of(results, task, variant)
            if each["seed"] in dense
        ]
        if needed and None not in needed:
            mean = sum(needed) / len(needed)
            yield f"{task}: dense needs {mean:.0f} steps for the loss of {variant}"
        elif needed:
            reached = sum(each is not None for each in needed)
            yield (
                f"{task}: dense reaches the loss of {variant} with {reached} of {len(needed)} seeds"
                f" in {DENSE_FACTOR} times the steps"
            )


def _first_step(curve, loss):
    steps = [int(step) for step, found in curve.items() if found["cross_entropy"] <= loss]
    return min(steps, default=None)


def main():
    """Does the runs that are not done yet, and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("runs/learning_study"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    flags = parser.parse_args()
    flags.results.mkdir(parents=True, exist_ok=True)
    # Seed by seed, so that what is there can be compared early.
    results = [
        run_one(flags.results, task, variant, seed, flags.steps)
        for seed in flags.seeds
        for task in flags.tasks
        for variant in VARIANTS
    ]
    print("\n".join([*rows(results), "", *verdicts(results)]))


if __name__ == "__main__":
    main()
