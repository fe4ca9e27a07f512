"""The request of a user: the flags of one command line, with types, frozen."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from hmoe.startup import workers
from hmoe.startup.workers import Workers

DEFAULT_MODEL_DIR = "runs/default"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that a run uses.

    Attributes:
      tpu: name or address of a TPU; None for the CPUs and GPUs of this machine.
      tpu_job_name: name of the TPU's worker job, if it is not the usual one.
      tpu_zone: zone of the TPU.
      gcp_project: project of the TPU.
    """

    tpu: str | None = None
    tpu_job_name: str | None = None
    tpu_zone: str | None = None
    gcp_project: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFlags:
    """What `hmoe plan` shows.

    Attributes:
      reads_model_dir: whether `model_dir` is the folder of a trained run, and not only a default.
      platform: one of `platforms.PLATFORMS`, that the step is counted for; None: the one that the
        layout is for.
      hardware: name of the hardware to model the time on, or a file that describes it.
      json: whether the plan is printed as JSON.
      explain: whether the formulas are shown with their numbers.
      prove: whether the costs are counted in other ways too, and compared.
      plot: folder to write pictures to.
      search: number of devices whose meshes and layouts are searched; None to search none.
    """

    reads_model_dir: bool = False
    platform: str | None = None
    hardware: str | None = None
    json: bool = False
    explain: bool = False
    prove: bool = False
    plot: str | None = None
    search: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceFlags:
    """What `hmoe trace` traces.

    Attributes:
      output: file to write the trace to; None for the model's folder.
      examples: how many examples of each task are traced; None for all.
      split: the split of the data that is traced; None for the one that is evaluated.
      data: file whose examples are traced in place of those of the model's own data.
      data_format: "pairs" or "text", for a file whose name does not show it.
      skip_bad_lines: whether bad lines of the file are skipped.
    """

    output: str | None = None
    examples: int | None = None
    split: str | None = None
    data: str | None = None
    data_format: str | None = None
    skip_bad_lines: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblateFlags:
    """What `hmoe ablate` leaves out, and of which examples it scores.

    Attributes:
      label: the label of examples, such as "language".
      trace: the trace that tells which experts each label uses; None for that of the
        checkpoint.
      examples: how many examples of each value of the label are scored.
      seeds: how many times experts are kept at random.
      output: file to write the losses to; None for the model's folder.
    """

    label: str = "language"
    trace: str | None = None
    examples: int = 16
    seeds: int = 2
    output: str | None = None


# The flags that a command alone has, which are a group of their own: `Request.plan` and others.
_GROUPS: dict[str, type] = {"plan": PlanFlags, "trace": TraceFlags, "ablate": AblateFlags}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One invocation of the `hmoe` command.

    Flags that a command does not have keep their defaults. `hmoe COMMAND --help` explains each.

    Attributes:
      command: "train", "eval", "predict", "score", "export", "split", "merge", "plan",
        "trace" or "ablate".
      model_dir: folder of checkpoints, curves and log.
      machine: the machine to run on.
      workers: the processes that share the run's mesh; None for this process alone.
      gin_file: gin files, later ones winning.
      gin_param: single lines of gin.
      gin_location_prefix: folders to look for gin files in.
      module_import: Python modules to import first; None for the default.
      skip_all_gin_unknowns: whether names that gin does not know are ignored.
      additional_deprecated_gin_references: names that gin need not know.
      t5_tfds_data_dir: folder of TensorFlow Datasets.
      additional_task_cache_dirs: folders with cached tasks.
      data: file with the user's own training data.
      validation_data: file with the user's own data to evaluate on.
      vocabulary: SentencePiece model for the user's own data; None for bytes.
      data_format: "pairs" or "text", for data whose name does not show it.
      skip_bad_lines: whether bad lines of the user's own data are skipped.
      train_steps: total number of training steps; None for gin's.
      strict: whether what is only warned of otherwise in the user's gin files is an error.
      force: whether a run is resumed although its result will not be the run's own.
      overwrite: whether a run begins anew in a folder that holds checkpoints.
      evaluate: whether training ends with an evaluation; None for the default.
      text: words to answer.
      input_file: file with lines to answer or to score.
      target_file: file with the targets to score.
      output_file: file to write answers or scores to.
      export_dir: folder to write a SavedModel to.
      output_dir: folder to write a rewritten model to.
      replay: trace whose choices take the place of the routers' own; None: routers choose.
      plan: what a plan is to show; None for other commands.
      trace: what is traced; None for other commands.
      ablate: what is left out; None for other commands.
    """

    command: str
    model_dir: str
    machine: Machine = Machine()
    workers: Workers | None = None
    gin_file: tuple[str, ...] = ()
    gin_param: tuple[str, ...] = ()
    gin_location_prefix: tuple[str, ...] = ()
    module_import: tuple[str, ...] | None = None
    skip_all_gin_unknowns: bool = False
    additional_deprecated_gin_references: tuple[str, ...] = ()
    t5_tfds_data_dir: str | None = None
    additional_task_cache_dirs: tuple[str, ...] = ()
    data: str | None = None
    validation_data: str | None = None
    vocabulary: str | None = None
    data_format: str | None = None
    skip_bad_lines: bool = False
    train_steps: int | None = None
    strict: bool = False
    force: bool = False
    overwrite: bool = False
    evaluate: bool | None = None
    text: tuple[str, ...] = ()
    input_file: str | None = None
    target_file: str | None = None
    output_file: str | None = None
    export_dir: str | None = None
    output_dir: str | None = None
    replay: str | None = None
    plan: PlanFlags | None = None
    trace: TraceFlags | None = None
    ablate: AblateFlags | None = None

    @classmethod
    def from_flags(
        cls, flags: argparse.Namespace, environ: Mapping[str, str] = os.environ
    ) -> Request:
        """Builds the request from parsed flags, with the default `model_dir` filled in.

        Args:
          flags: the flags.
          environ: the environment, of which TF_CONFIG may name the processes of the run.

        Raises:
          ValueError: what names the processes is wrong.
        """
        given = vars(flags)
        group = _GROUPS.get(flags.command)
        fields = set(_fields(cls)) - set(_fields(group) if group else ())
        values = {name: frozen(given[name]) for name in fields if name in given}
        values["model_dir"] = flags.model_dir
        if flags.model_dir is None:
            values["model_dir"] = _default_model_dir(flags)
        values["machine"] = _filled(Machine, given)
        if group:
            reads = {"reads_model_dir": flags.model_dir is not None}
            values[flags.command] = _filled(group, {**given, **reads})
        values["workers"] = workers.from_flags(flags, environ)
        return cls(**values)


def _filled(kind: type[T], given: Mapping[str, Any]) -> T:
    """Returns a group of flags, of which those that a command does not have keep their defaults."""
    return kind(**{name: given[name] for name in _fields(kind) if name in given})


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def frozen(value: Any) -> Any:
    """Returns a list as a tuple, and any other value as it is."""
    return tuple(value) if isinstance(value, list) else value


def _default_model_dir(flags: argparse.Namespace) -> str:
    """Names the folder of a training run after its last gin file or its data."""
    if flags.command == "train" and (flags.gin_file or flags.data):
        source = flags.gin_file[-1] if flags.gin_file else flags.data
        return os.path.join("runs", os.path.splitext(os.path.basename(source))[0])
    return DEFAULT_MODEL_DIR
