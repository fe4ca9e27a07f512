"""The files of checkpoints in a folder: which there are, and which of them are whole.

A checkpoint `model.ckpt-<step>` is an index, data files, and the manifest that hmoe writes last.
Only the names in the folder itself count. What TensorFlow's file `checkpoint` says is never used to
choose, to load or to remove anything.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from etils import epath

from hmoe.storage import checkpoint_manifest
from hmoe.storage.local_files import is_elsewhere

# The file in which TensorFlow's own tools look for the newest checkpoint.
STATE_FILE = "checkpoint"
# Number of damaged checkpoints that an error describes.
MAX_LISTED = 4
# Number of looks at a folder that changes while it is looked at.
MAX_LOOKS = 5

_NAME = re.compile(
    r"model\.ckpt-(?P<step>\d+)\."
    r"(?P<kind>index|meta|manifest\.json|progress\.json|unfinished|data-\d{5,}-of-(?P<shards>\d{5,}))"
)

# Names that TensorFlow and `atomic_write` give to what they have not finished; names of other files
# may look alike (such as `answers.1.unfinished`), and are their owners'.
_LEFTOVER = re.compile(
    r"model\.ckpt-\d+(_temp(_[0-9a-f]+)?|\..+\.tempstate\d*)|checkpoint\.tmp[0-9a-f]*"
    r"|(model\.ckpt-\d+\.(manifest\.json|progress\.json|unfinished)|checkpoint|(metrics|alarms)\.jsonl"
    r"|(operative_)?config\.gin|run\.json|vocabulary\.model|\.hmoe\.lock\.json)\.\d+\.unfinished"
)


# Reads a checkpoint, given its path without endings, and returns what is wrong with it, or None.
ProblemInReading: TypeAlias = Callable[[str], str | None]


class Newest(NamedTuple):
    """The newest whole checkpoint of a folder.

    Attributes:
      path: its path without the endings of its files, such as "m/model.ckpt-400"; None if there is
        no whole one.
      problems: for each newer checkpoint that is not whole, its step and what is wrong with it.
    """

    path: str | None
    problems: Mapping[int, str]


def prefix(folder: str, step: int) -> str:
    """Returns the path of a checkpoint, without the endings of its files."""
    return os.path.join(folder, f"model.ckpt-{step}")


def index_name(step: int) -> str:
    """Returns the name of the file that lists a checkpoint's variables."""
    return f"model.ckpt-{step}.index"


def marker_name(step: int) -> str:
    """Returns the name of the file that marks a save or a removal that is not finished."""
    return f"model.ckpt-{step}.unfinished"


def names_by_step(folder: str) -> dict[int, list[str]]:
    """Returns the names of the files of each checkpoint in a folder, newest step first.

    Files of checkpoints that are being saved or removed are among them; a folder that does not
    exist has none.
    """
    found: dict[int, list[str]] = {}
    for name in list_names(folder):
        match = _NAME.fullmatch(name)
        if match and name == _canonical(name, match):
            found.setdefault(int(match["step"]), []).append(name)
    return {step: sorted(found[step]) for step in sorted(found, reverse=True)}


def _canonical(name: str, match: re.Match[str]) -> str:
    """Returns the name with its step written without zeros in front, as it is always saved."""
    return f"model.ckpt-{int(match['step'])}.{match['kind']}"


def list_names(folder: str) -> list[str]:
    """Returns the names in a folder; none for a folder that does not exist."""
    try:
        return [path.name for path in epath.Path(folder).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def saved_steps(folder: str) -> list[int]:
    """Returns the steps of the checkpoints in a folder, whole or damaged, newest first."""
    return [step for step, names in names_by_step(folder).items() if not is_unfinished(step, names)]


def is_leftover(name: str) -> bool:
    """Returns whether a name is one that only a save which died can have left in a folder."""
    return bool(_LEFTOVER.fullmatch(name))


def is_unfinished(step: int, names: Sequence[str]) -> bool:
    """Returns whether the files belong to a save or a removal that has not come to its end."""
    return marker_name(step) in names and checkpoint_manifest.name_of(step) not in names


def newest_whole(folder: str, read: ProblemInReading | None = None) -> Newest:
    """Finds the newest whole checkpoint of a folder.

    Files of a checkpoint with a manifest are compared with it in size and checksum. Those of one
    without (T5's, Mesh TensorFlow's, an older hmoe's) can only be checked to be there, to end as an
    index does, and to be read.

    Args:
      folder: the folder; the names in it count, and nothing outside it.
      read: reads a checkpoint without a manifest, given its path without endings, and returns what
        is wrong with it, or None; None to do without.

    Returns:
      The path, and what is wrong with newer checkpoints.

    Raises:
      OSError: the system cannot read a file now, whatever its state.
      ValueError: a later version of hmoe has saved a checkpoint.
    """
    for _ in range(MAX_LOOKS):
        by_step = names_by_step(folder)
        try:
            found = _newest_of(folder, by_step, read)
        except OSError:
            if names_by_step(folder) == by_step:
                raise
            continue
        # A training that goes on may have saved and removed checkpoints in the meantime.
        if not found.problems or names_by_step(folder) == by_step:
            break
    return found


def _newest_of(
    folder: str, by_step: Mapping[int, Sequence[str]], read: ProblemInReading | None
) -> Newest:
    problems: dict[int, str] = {}
    for step, names in by_step.items():
        if is_unfinished(step, names):
            continue
        problem = problem_of(folder, step, names, read)
        if problem is None:
            return Newest(prefix(folder, step), problems)
        problems[step] = problem
    return Newest(None, problems)


def has_whole_before(folder: str, step: int) -> bool:
    """Returns whether a folder has a whole checkpoint that is older than a step."""
    older = (each for each in saved_steps(folder) if each < step)
    return any(problem_of(folder, each) is None for each in older)


def problem_of(
    folder: str,
    step: int,
    names: Sequence[str] | None = None,
    read: ProblemInReading | None = None,
) -> str | None:
    """Returns what is wrong with a checkpoint, in words that name the file; None if it is whole.

    Args:
      folder: the folder.
      step: the checkpoint's step.
      names: the names of its files, if they are known.
      read: see `newest_whole`.

    Raises:
      OSError: the system cannot read a file now, whatever its state.
      ValueError: a later version of hmoe has saved it.
    """
    if names is None:
        names = names_by_step(folder).get(step, [])
    for name in names:
        if _leads_elsewhere(folder, name):
            return f"{name} is a link to a file outside the folder"
    missing = _missing(step, names)
    if missing:
        return f"{missing} is missing"
    manifest = checkpoint_manifest.name_of(step)
    if manifest in names:
        return checkpoint_manifest.problem_of(folder, step)
    problem = _problem_of_index(folder, index_name(step))
    return read(prefix(folder, step)) if read and not problem else problem


def _leads_elsewhere(folder: str, name: str) -> bool:
    if is_elsewhere(folder) or not os.path.islink(os.path.join(folder, name)):
        return False
    target = os.path.realpath(os.path.join(folder, name))
    return os.path.dirname(target) != os.path.realpath(folder)


def _missing(step: int, names: Sequence[str]) -> str | None:
    """Returns the name of a file without which a checkpoint is not whole, or None."""
    if index_name(step) not in names:
        return index_name(step)
    totals = {match["shards"] for match in map(_NAME.fullmatch, names) if match and match["shards"]}
    lacking = f"model.ckpt-{step}.data-00000-of-00001"
    for total in sorted(totals):
        shards = (
            f"model.ckpt-{step}.data-{shard:0{len(total)}d}-of-{total}"
            for shard in range(int(total))
        )
        first = next((name for name in shards if name not in names), None)
        if first is None:
            return None
        lacking = first
    return lacking


# The last bytes of every index that TensorFlow writes: the format is LevelDB's table.
_TABLE_END = bytes.fromhex("57fb808b247547db")


def _problem_of_index(folder: str, name: str) -> str | None:
    """Returns what is wrong with an index whose checksum is not known, or None."""
    path = os.path.join(folder, name)
    try:
        with checkpoint_manifest.whatever_its_state(path):
            content = epath.Path(path).read_bytes()
    except checkpoint_manifest.NOT_THERE:
        return f"{name} is missing"
    return None if content.endswith(_TABLE_END) else f"{name} is cut off or is no index"


def listed(problems: Mapping[int, str]) -> str:
    """Returns the problems of checkpoints as one phrase, the newest first."""
    phrases = [f"model.ckpt-{step}: {problem}" for step, problem in problems.items()]
    if len(phrases) > MAX_LISTED:
        phrases[MAX_LISTED:] = [f"and {len(phrases) - MAX_LISTED} older ones"]
    return "; ".join(phrases)


def check_some_whole(folder: str, newest: Newest) -> None:
    """Raises ValueError if a folder has checkpoints and all of them are damaged."""
    if newest.path is None and newest.problems:
        raise ValueError(
            f"no checkpoint in model_dir {folder!r} is whole ({listed(newest.problems)}); nothing "
            "was changed. Restore these files from a copy, name another --model_dir, or train anew "
            "there with hmoe train --overwrite, which moves the old files aside"
        )


def check_step(model_dir: str, step: int) -> None:
    """Raises ValueError if a folder has no checkpoint of a step, or a damaged one."""
    steps = sorted(saved_steps(model_dir))
    if step not in steps:
        raise ValueError(
            f"model_dir {model_dir!r} has no checkpoint of step {step}; it has step"
            f"{'s' * (len(steps) > 1)} {', '.join(map(str, steps))}. Choose one that it "
            "has (utils.run.eval_checkpoint_step), or -1 for the newest"
        )


def require_whole(model_dir: str, step: int) -> str:
    """Returns the path of a checkpoint that a user has asked for.

    Raises:
      ValueError: it is damaged.
    """
    problem = problem_of(model_dir, step)
    if problem:
        raise ValueError(
            f"the checkpoint of step {step} in model_dir {model_dir!r} is damaged: {problem}. "
            "Choose another step (utils.run.eval_checkpoint_step), or -1 for the newest whole one"
        )
    return prefix(model_dir, step)


def check_can_be_read(folder: str, step: int) -> None:
    """Raises OSError if the system cannot read a file of a checkpoint now, whatever its state."""
    for name in names_by_step(folder).get(step, []):
        path = os.path.join(folder, name)
        with (
            contextlib.suppress(*checkpoint_manifest.NOT_THERE),
            checkpoint_manifest.whatever_its_state(path),
        ):
            checkpoint_manifest.checksum(path)


def state_text(steps: Sequence[int]) -> str:
    """Returns the text of the file `checkpoint` for checkpoints of these steps, oldest first.

    Its paths are relative, so that the folder can be moved.
    """
    lines = [f'model_checkpoint_path: "model.ckpt-{steps[-1]}"'] if steps else []
    lines += [f'all_model_checkpoint_paths: "model.ckpt-{step}"' for step in steps]
    return "".join(f"{line}\n" for line in lines)
