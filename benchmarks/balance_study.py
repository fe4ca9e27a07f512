"""What keeps experts evenly loaded: balance losses, a bias, or nothing?

Trains a small T5 with two levels of 4 x 4 experts on the default job's data, once for every way of
balancing and every seed, and compares load, drops and loss. A run that is done is not done again:
the folder of results may be filled in several sittings.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import pathlib
import platform
import shutil
import statistics
import time
from unittest import mock

import gin

import hmoe
import hmoe.t5  # registers what gin files name
from hmoe import compat
from hmoe.compat.stack import tf
from hmoe.t5.commands import gin_config
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.evaluation import task_examples
from hmoe.t5.sessions import hooks, run_metrics

compat.behave_like_v1()

from mesh_tensorflow.transformer import utils  # noqa: E402

STEPS, WINDOW, EVERY = 300, 100, 10
SEEDS = (1, 2, 3)
# Rates of the bias were looked for with a seed that the study does not use.
SEED_OF_LOOKS = 0
LEVELS = ("outer", "inner")
MODEL = (
    "d_model = 64",
    "d_ff = 128",
    "num_blocks = 1",
    "num_heads = 2",
    "batch_size = 32",
    "warmup_steps = 40",
    f"train_steps = {STEPS}",
    f"save_every_steps = {STEPS}",
    "utils.run.keep_checkpoint_max = 1",
    "mesh_eval_dataset_fn.num_eval_examples = 1024",
    # Nothing of the routing is left to chance.
    'hmoe.TopKRouter.policy_train = "all"',
    f"hmoe.Session.log_every_steps = {WINDOW}",
)


def _loss(over, choices, coefficient=0.01):
    return (
        f"hmoe.Level.balance_loss_coef = {coefficient}",
        f'hmoe.Level.balance_loss_over = "{over}"',
        f'hmoe.Level.balance_loss_choices = "{choices}"',
    )


def _bias(rate, function):
    return (
        "hmoe.Level.balance_loss_coef = 0.0",
        f"hmoe.TopKRouter.bias_update_rate = {rate}",
        "hmoe.TopKRouter.gate = @hmoe.Gate()",
        f'hmoe.Gate.function = "{function}"',
    )


STUDY = {
    "none": ("hmoe.Level.balance_loss_coef = 0.0",),
    "loss by group": _loss("group", "first"),
    "loss by batch": _loss("batch", "first"),
    "loss by batch, all choices": _loss("batch", "all"),
    "bias": _bias(0.003, "softmax"),
}
LOOKS = {
    **{
        f"bias {rate} {function}": _bias(rate, function)
        for rate, function in (
            (0.001, "softmax"),
            (0.003, "softmax"),
            (0.01, "softmax"),
            (0.003, "sigmoid"),
        )
    },
    "loss by group, coefficient 0.1": _loss("group", "first", 0.1),
}


def _teacher_forced(found):
    """A function in place of upstream's `eval_model` that decodes nothing."""

    def eval_model(
        estimator,
        vocabulary,
        sequence_length,
        batch_size,
        dataset_split,
        model_dir,
        eval_dataset_fn,
        *_,
        **__,
    ):
        tasks = task_examples.load_tasks(
            eval_dataset_fn, sequence_length, vocabulary, dataset_split
        )
        lengths = task_examples.longest(tasks)
        input_fn = utils._get_combined_dataset_input_fn(
            [task.dataset for task in tasks], batch_size, lengths, check_for_metrics=True
        )
        found.update(estimator(sequence_length=lengths).evaluate(input_fn))

    return eval_model


def _keeping(history):
    """A hook in place of the trainer's that also keeps the sums of every step."""

    class KeepingHook(hooks.ProgressHook):
        def after_step(self, run_context, run_values):
            history.append(run_values.results)
            super().after_step(run_context, run_values)

    return KeepingHook


def train_and_evaluate(model_dir, bindings, seed, say):
    """The sums of every step of training, and the numbers of held-out examples."""
    gin.clear_config()
    seeds = (
        f"hmoe.Session.seed = {seed}",
        f"hmoe.HierarchicalMoE.seed = {seed}",
        f"mesh_train_dataset_fn.seed = {seed}",
    )
    gin_config.read(["runs/default.gin", "layouts/one_device.gin"], [*MODEL, *seeds, *bindings])
    gin_config.finish()
    history, found = [], {}
    run = T5Run(mode="train", model_dir=model_dir, say=say, arguments={"dataset_split": "train"})
    with mock.patch.object(hooks, "ProgressHook", _keeping(history)):
        run.start()
    T5Run(
        mode="eval",
        model_dir=model_dir,
        say=say,
        evaluate=_teacher_forced(found),
        arguments={"dataset_split": "validation", "eval_checkpoint_step": -1},
    ).start()
    return history, found


def _of_steps(history):
    """The trainer's measures of all these steps together."""
    collector = run_metrics.SumCollector()
    for sums in history:
        collector.add(sums)
    return run_metrics.training_metrics(collector)


def _violations(numbers):
    """MaxVio by level, mean over layers; "all" takes the 16 experts of a layer as one family."""
    named = {level: numbers[f"experts/{level}/max_violation"] for level in LEVELS}
    return {**named, "all": numbers["experts/load_imbalance"] - 1.0}


def summarized(history, found):
    """What is kept of a run."""
    last = _of_steps(history[-WINDOW:])
    steps = [_violations(_of_steps([sums])) for sums in history[-WINDOW:]]
    return {
        "max_violation": _violations(last),
        "max_violation_of_a_step": {
            name: statistics.fmean(step[name] for step in steps) for name in steps[0]
        },
        "dropped": {level: last[f"experts/{level}/fraction_tokens_dropped"] for level in LEVELS},
        "training_loss": last["cross_ent_loss"],
        "held_out_loss": -found["neg_log_perplexity"],
        "held_out_dropped": {
            level: found[f"experts/{level}/fraction_tokens_dropped"] for level in LEVELS
        },
        "curve": [
            {"step": step, **_violations(_of_steps(history[max(0, step - WINDOW) : step]))}
            for step in range(EVERY, len(history) + 1, EVERY)
        ],
    }


def run_one(folder, name, bindings, seed):
    """The result of a run, from its file if it is done."""
    label = f"{name.replace(',', '').replace(' ', '_')}-seed_{seed}"
    path = folder / f"{label}.json"
    if path.exists():
        return json.loads(path.read_text())
    model_dir = folder / "models" / label
    shutil.rmtree(model_dir, ignore_errors=True)
    print(f"== {label}", flush=True)
    start = time.time()
    history, found = train_and_evaluate(
        str(model_dir), bindings, seed, lambda line: print(line, flush=True)
    )
    result = {
        "name": name,
        "seed": seed,
        "bindings": [*MODEL, *bindings],
        "seconds": round(time.time() - start),
        **summarized(history, found),
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _spread(values, digits, percent=False):
    """Mean, and of several values lowest to highest, as text."""
    scale = 100.0 if percent else 1.0
    mean, low, high = (
        f"{scale * each:.{digits}f}"
        for each in (statistics.fmean(values), min(values), max(values))
    )
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


_COLUMNS = (
    ("MaxVio outer", lambda r: r["max_violation"]["outer"], 3, False),
    ("inner", lambda r: r["max_violation"]["inner"], 3, False),
    ("of a step, outer", lambda r: r["max_violation_of_a_step"]["outer"], 2, False),
    ("inner", lambda r: r["max_violation_of_a_step"]["inner"], 2, False),
    ("dropped outer, %", lambda r: r["dropped"]["outer"], 2, True),
    ("inner, %", lambda r: r["dropped"]["inner"], 2, True),
    ("cross entropy, training", lambda r: r["training_loss"], 3, False),
    ("held out", lambda r: r["held_out_loss"], 3, False),
)


def table(by_name):
    """Lines of Markdown: a row for each way of balancing, mean and range over seeds."""
    lines = [
        "| balanced by | " + " | ".join(each[0] for each in _COLUMNS) + " |",
        "|" + "---|" * (1 + len(_COLUMNS)),
    ]
    for name, results in by_name.items():
        cells = [
            _spread([value(result) for result in results], digits, percent)
            for _, value, digits, percent in _COLUMNS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


_COLOURS = ("#888888", "#1b6ca8", "#2a9d8f", "#8e5bb5", "#d1495b")
_WIDTH, _HEIGHT, _TOP, _LEFT, _GAP = 300, 220, 46, 52, 64
_LOWEST, _HIGHEST = 0.003, 1.0


def _y(value):
    """Of a violation on a logarithmic axis."""
    value = min(max(value, _LOWEST), _HIGHEST)
    return _TOP + _HEIGHT * math.log(_HIGHEST / value) / math.log(_HIGHEST / _LOWEST)


def _text(x, y, text, anchor="middle", colour="#333333"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


def _panel(left, level, by_name):
    """Elements of one level's curves, a line a seed."""
    right = left + _WIDTH
    parts = [
        f'<rect x="{left}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none"'
        ' stroke="#999999"/>',
        _text(left + _WIDTH / 2, _TOP - 10, f"{level} level"),
    ]
    for value in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        dashes = "" if value == 0.1 else ' stroke-dasharray="2 4"'
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{_y(value):.1f}" y2="{_y(value):.1f}"'
            f' stroke="#bbbbbb"{dashes}/>'
        )
        parts.append(_text(left - 6, _y(value) + 4, f"{value:g}", "end"))
    for step in range(0, STEPS + 1, 100):
        parts.append(_text(left + _WIDTH * step / STEPS, _TOP + _HEIGHT + 16, str(step)))
    for colour, results in zip(_COLOURS, by_name.values()):
        for result in results:
            points = " ".join(
                f"{left + _WIDTH * point['step'] / STEPS:.1f},{_y(point[level]):.1f}"
                for point in result["curve"]
            )
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
            )
    return parts


def picture(by_name):
    """An SVG: MaxVio of the last steps against the step, a panel a level."""
    parts = []
    for number, level in enumerate(LEVELS):
        parts += _panel(_LEFT + number * (_WIDTH + _GAP), level, by_name)
    width, bottom = _LEFT + 2 * _WIDTH + _GAP + 16, _TOP + _HEIGHT
    parts.append(
        _text(
            width / 2,
            16,
            f"MaxVio of the loads of the last {WINDOW} steps, by step (each line is a seed)",
        )
    )
    for number, (colour, name) in enumerate(zip(_COLOURS, by_name)):
        x, y = _LEFT + 225 * (number % 3), bottom + 40 + 18 * (number // 3)
        parts.append(
            f'<line x1="{x}" x2="{x + 22}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}"'
            ' stroke-width="3"/>'
        )
        parts.append(_text(x + 28, y, name, "start"))
    height = bottom + 70
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def write(folder, by_name):
    """Writes balance.json and balance.svg, and the table into balance.md between its marks."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "hmoe": hmoe.__version__,
        "steps": STEPS,
        "window": WINDOW,
        "seeds": SEEDS,
        "results": by_name,
    }
    rounded = json.loads(json.dumps(described), parse_float=lambda text: round(float(text), 5))
    (folder / "balance.json").write_text(json.dumps(rounded) + "\n")
    (folder / "balance.svg").write_text(picture(by_name))
    page, lines = folder / "balance.md", table(by_name)
    before, after = "", ""
    if page.exists():
        before, _, rest = page.read_text().partition(_BEGIN)
        after = rest.partition(_END)[2]
    page.write_text("\n".join([before + _BEGIN, *lines, _END + (after or "\n")]))
    print("\n".join(lines))


_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"


def main():
    """Does the runs that are not done yet, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        default=pathlib.Path("runs/balance_study"),
        help="folder of results, one file a run",
    )
    parser.add_argument(
        "--write",
        type=pathlib.Path,
        default=None,
        help="folder for balance.md, .json and .svg (default: that of results)",
    )
    parser.add_argument(
        "--looks",
        action="store_true",
        help="instead of the study one run for each of some rates of the bias",
    )
    flags = parser.parse_args()
    flags.results.mkdir(parents=True, exist_ok=True)
    variants, seeds = (LOOKS, [SEED_OF_LOOKS]) if flags.looks else (STUDY, SEEDS)
    # Seed by seed, so that what is there can be compared early.
    results = [
        run_one(flags.results, name, bindings, seed)
        for seed in seeds
        for name, bindings in variants.items()
    ]
    by_name = {name: [each for each in results if each["name"] == name] for name in variants}
    if flags.looks:
        print("\n".join(table(by_name)))
    else:
        write(flags.write or flags.results, by_name)


if __name__ == "__main__":
    main()
