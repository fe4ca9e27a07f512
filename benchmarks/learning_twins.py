"""The runs of `learning_study`: twins of equal multiplications a token, and their results."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import time
import traceback

import gin

import hmoe.t5  # noqa: F401  (registers what gin files name)
from hmoe import compat
from hmoe.analysis import retention_scores, traces
from hmoe.analysis.information import information
from hmoe.startup.console import Console
from hmoe.startup.request import Request, TraceFlags
from hmoe.storage import study_files
from hmoe.t5.commands import trace, train
from hmoe.t5.commands.evaluate import run_evaluation

compat.behave_like_v1()

TASKS = {
    "formats": (),
    "names": (
        "tasks/cldr_names.gin",
        (
            "hmoe.NameSettings.languages = ['ar', 'cs', 'de', 'el', 'da', 'es', 'fa', 'fi', 'fr',"
            " 'he', 'hi', 'hu', 'id', 'it', 'ja', 'ko', 'nl', 'pl', 'pt', 'ru', 'sv', 'tr', 'uk',"
            " 'zh']"
        ),
    ),
}
# The default job, smaller: half the width, one block instead of two, half the batch.
MODEL = (
    *("d_model = 64", "d_ff = 128", "d_ff_wide = 160", "num_blocks = 1", "num_heads = 2"),
    "batch_size = 16",
    "mesh_eval_dataset_fn.num_eval_examples = 512",
    "hmoe.Session.log_every_steps = 100",
)
LABEL = "language"


@dataclasses.dataclass(frozen=True)
class Twin:
    """A model of the study.

    Attributes:
      files: gin files that replace the model of the default job.
      bindings: lines of gin.
      factor: its steps, in those of the others.
    """

    files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    factor: int = 1

    @property
    def has_experts(self) -> bool:
        """Whether there is something to route."""
        return _DENSE not in self.files


_DENSE = "models/_dense.gin"
DENSE, LONG_DENSE, FLAT, TREE, ONE_GROUP, WITH_ROOM = (
    "dense",
    "dense, twice the steps",
    "16 flat",
    "4 x 4",
    "4 x 4, one group",
    "4 x 4, one group, room",
)
# All have 1.25 slots a token in training and 2 in evaluation, and the dense ones are as wide; but
# for the one with room, which is there to see what drops do.
_INNER_HAS_ALL_SLOTS = (
    "outer/hmoe.Level.capacity_factor_train = 1.0",
    "outer/hmoe.Level.capacity_factor_eval = 1.0",
    "inner/hmoe.Level.capacity_factor_train = 1.25",
    "inner/hmoe.Level.capacity_factor_eval = 2.0",
)
TWINS = {
    DENSE: Twin((_DENSE,)),
    LONG_DENSE: Twin((_DENSE,), factor=2),
    FLAT: Twin(("models/_one_level.gin",)),
    TREE: Twin(),
    ONE_GROUP: Twin(
        bindings=(
            *("outer/hmoe.TopKRouter.k = 1", "inner_group_size = 64"),
            *_INNER_HAS_ALL_SLOTS,
        )
    ),
    WITH_ROOM: Twin(
        bindings=(
            *("outer/hmoe.TopKRouter.k = 1", "inner_group_size = 64"),
            *_INNER_HAS_ALL_SLOTS,
            "outer/hmoe.Level.capacity_factor_train = 2.0",
        )
    ),
    "16 x 1": Twin(bindings=("num_outer_experts = 16", "num_inner_experts = 1")),
    "1 x 16": Twin(
        bindings=(
            *("num_outer_experts = 1", "num_inner_experts = 16", "inner_group_size = 128"),
            *_INNER_HAS_ALL_SLOTS,
        )
    ),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A training of the study.

    Attributes:
      task: one of `TASKS`.
      twin: one of `TWINS`.
      seed: of weights, data and routing.
      steps: of the twins with a factor of 1.
      ablates: whether its experts are left out afterwards.
    """

    task: str
    twin: str
    seed: int
    steps: int
    ablates: bool = False

    @property
    def name(self) -> str:
        """A name for files."""
        twin = self.twin.replace(",", "").replace(" ", "_")
        return f"{self.task}-{twin}-seed_{self.seed}"

    @property
    def own_steps(self) -> int:
        """The steps of this run."""
        return self.steps * TWINS[self.twin].factor


def files_and_bindings(run):
    """The gin files of a run, and its lines of gin."""
    twin = TWINS[run.twin]
    files, more = ["runs/default.gin", "layouts/one_device.gin", *twin.files], []
    if TASKS[run.task]:
        files.append(TASKS[run.task][0])
        more.append(TASKS[run.task][1])
    more += [
        f"train_steps = {run.own_steps}",
        f"save_every_steps = {run.own_steps}",
        f"hmoe.Session.seed = {run.seed}",
        f"mesh_train_dataset_fn.seed = {run.seed}",
    ]
    if twin.has_experts:
        more.append(f"hmoe.HierarchicalMoE.seed = {run.seed}")
    return files, [*MODEL, *twin.bindings, *more]


def result(folder, run):
    """What came out of a run, from its file if it is done."""
    path = folder / f"{run.name}.json"
    if not path.exists():
        with (folder / f"{run.name}.log").open("w") as log, contextlib.redirect_stdout(log):
            try:
                found = _run(folder / "models" / run.name, run)
            except Exception:  # gin's and TensorFlow's do not all travel between processes
                raise RuntimeError(f"{run.name}: {traceback.format_exc()}") from None
        path.write_text(json.dumps(found, indent=1) + "\n")
    return json.loads(path.read_text())


def _run(model_dir, run):
    shutil.rmtree(model_dir, ignore_errors=True)
    start, console = time.time(), Console()
    gin.clear_config()
    files, bindings = files_and_bindings(run)
    training = Request(
        command="train",
        model_dir=str(model_dir),
        gin_file=tuple(files),
        gin_param=tuple(bindings),
        evaluate=False,
    )
    train.train(training, console)
    trained = time.time()
    request = Request(command="eval", model_dir=str(model_dir))
    run_evaluation(request, console)
    found = {**dataclasses.asdict(run), **_held_out(model_dir)}
    found["seconds"] = {"training": round(trained - start)}
    if TWINS[run.twin].has_experts:
        trace.trace_held_out(request, console, TraceFlags())
        found["information"] = _information(model_dir / f"trace-{run.own_steps}.parquet")
    if run.ablates and TWINS[run.twin].has_experts:
        command = [sys.executable, "-m", "hmoe.cli.main", "ablate", f"--model_dir={model_dir}"]
        subprocess.run(command, check=True, stdout=sys.stdout)
        found["retention"] = _retention(
            model_dir / study_files.retention_name(run.own_steps, LABEL)
        )
    found["seconds"]["after it"] = round(time.time() - trained)
    return found


def _held_out(model_dir):
    """Cross entropy, exact match in percent, and shares dropped, of held-out examples."""
    (path,) = pathlib.Path(model_dir).glob("*_eval/metrics.jsonl")
    numbers = json.loads(path.read_text().splitlines()[-1])
    (exact,) = [
        value
        for name, value in numbers.items()
        if name.endswith("/exact_match") and "=" not in name
    ]
    return {
        "cross_entropy": numbers["eval/cross_ent_loss"],
        "exact_match": exact,
        "dropped": {"training": _dropped(model_dir), "evaluation": _by_level(numbers, "eval/")},
    }


def _dropped(model_dir):
    """The share of tokens dropped in the last report of a training, by level."""
    lines = (pathlib.Path(model_dir) / "metrics.jsonl").read_text().splitlines()
    return _by_level(json.loads(lines[-1]), "")


def _by_level(numbers, prefix):
    return {
        name.split("/")[-2]: value
        for name, value in numbers.items()
        if name.startswith(f"{prefix}experts/") and name.endswith("/fraction_tokens_dropped")
    }


def _information(path):
    """For each layer what its levels know of the label: shares of its entropy, with z."""
    found = traces.read(str(path))
    known = {layer.name: information(found, layer.name, LABEL) for layer in found.manifest.layers}
    return {
        name: {
            "levels": [{"share": each.share(level), "z": level.z} for level in each.levels],
            "given token": {"share": each.share(each.given_token), "z": each.given_token.z},
        }
        for name, each in known.items()
    }


def _retention(path):
    """Nats that leaving experts out costs, mean over labels, by the share kept and the way."""
    found = retention_scores.table(retention_scores.read(str(path)).scores)
    return {
        "loss": float(found.loss_of_all.mean()),
        "excess": {
            f"{share:g}": dict(zip(retention_scores.WAYS, found.excess[:, index].mean(0).tolist()))
            for index, share in enumerate(found.shares)
        },
    }
