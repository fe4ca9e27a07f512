"""Which gin files and lines a command reads, and in which order."""

from __future__ import annotations

import dataclasses
import os
from typing import NoReturn

from hmoe.startup import gin_files, gin_reading, gin_statements, saved_run
from hmoe.startup.request import Request
from hmoe.storage import checkpoint_files
from hmoe.storage.local_files import is_elsewhere

# The job of `hmoe train` without flags.
DEFAULT_RUN = "runs/default.gin"

# Commands whose gin files and data are those of a run that begins.
_BEGIN = ("train", "plan")

# Gin files that bind all of these, beside Mesh TensorFlow's defaults, are a run of their own.
_OF_A_WHOLE_RUN = (
    "mesh_tensorflow.transformer.utils.run.train_dataset_fn",
    "mesh_tensorflow.transformer.utils.run.mesh_shape",
)


@dataclasses.dataclass(frozen=True)
class Sources:
    """The gin files that a command reads, before the lines of `--gin_param`.

    Attributes:
      files: paths of the files, later ones winning.
      saved: whether they are what a training run has saved.
      text: what is read in place of a saved file that is lost; or "".
    """

    files: tuple[str, ...]
    saved: bool = False
    text: str = ""


def of_new_run(request: Request) -> tuple[str, ...]:
    """Returns the gin files of a training run that begins.

    Without gin files that is the default run. Files that are given beside `--data` come after the
    default run, so that they need only hold what differs, unless they are a whole run by
    themselves: then they stand alone, and nothing of the default run is left in theirs.
    """
    if not request.gin_file:
        return (DEFAULT_RUN,)
    if not request.data or _are_a_whole_run(request):
        return request.gin_file
    return (DEFAULT_RUN, *request.gin_file)


def _are_a_whole_run(request: Request) -> bool:
    reading = gin_reading.read(request.gin_file, request.gin_param, request.gin_location_prefix)
    return all(reading.bound(argument) for argument in _OF_A_WHOLE_RUN)


def describes_new_run(request: Request) -> bool:
    """Returns whether flags describe the run that begins, so that no folder has to."""
    if request.plan and not request.plan.reads_model_dir:
        return True
    return bool(request.gin_file or request.data)


def of(request: Request) -> Sources | None:
    """Returns what a command reads; None if that is on another machine.

    Raises:
      ValueError: a model has no configuration, or a damaged one.
    """
    if request.gin_file and request.command not in _BEGIN:
        return Sources(request.gin_file)
    if describes_new_run(request):
        return Sources(of_new_run(request))
    if is_elsewhere(request.model_dir):
        return None
    saved = saved_run.read(request.model_dir)
    if saved is not None:
        return Sources(saved.files, saved=True, text=saved.text)
    check_may_begin(request)
    return Sources((DEFAULT_RUN,))


def check_may_begin(request: Request) -> None:
    """Raises ValueError unless the default job may begin in a folder without a configuration.

    A folder with checkpoints holds a model, which is not trained with the configuration of another.
    """
    if request.command != "train":
        raise_no_configuration(request.model_dir)
    if not request.overwrite and checkpoint_files.saved_steps(request.model_dir):
        raise_no_configuration(request.model_dir)


def begins_default_job(request: Request) -> bool:
    """Returns whether a request begins the default job, as far as this machine shows.

    It names neither gin files nor data, and the folder has no configuration. With `--overwrite` and
    a configuration in the folder, it is the run of that configuration that begins anew.

    Raises:
      ValueError: the folder has checkpoints and no configuration, or a damaged one.
    """
    if request.command != "train" or request.gin_file or request.data:
        return False
    sources = of(request)
    return sources is not None and not sources.saved


def raise_no_configuration(model_dir: str) -> NoReturn:
    """Raises ValueError for a folder of checkpoints without the configuration of their model."""
    raise ValueError(
        f"model_dir {model_dir!r} has no {' or '.join(saved_run.CONFIGURATIONS)}, which describe "
        "the model; name its gin files with --gin_file"
    )


def read(request: Request) -> gin_reading.Reading | None:
    """Reads the configuration of a command, with Mesh TensorFlow's defaults before it.

    Returns:
      The configuration; None if it is on another machine.

    Raises:
      ValueError: a file or line cannot be read.
    """
    sources = of(request)
    if sources is None:
        return None
    reader = gin_reading.Reader(request.gin_location_prefix)
    defaults = os.path.join(gin_files.mesh_tensorflow_folder(), "defaults.gin")
    statements = list(reader.file(defaults))
    for path in sources.files:
        statements += reader.file(path, own=not sources.saved)
    statements += gin_statements.parse(sources.text, saved_run.FLAGS_FILE, own=False)
    for line in request.gin_param:
        statements += reader.line(line)
    return gin_reading.Reading(statements, whole=reader.whole)
