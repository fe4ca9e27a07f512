"""Does harm to a process of a run that imports it, at a moment that the environment names.

A command imports it with `--module_import`. HMOE_TESTS_HARM is a JSON object: "what" has for the
number of a process a harm and a moment, and "once" a path that is made when a process is harmed and
spares all later starts. Harms: "data 3" for an error in the third batch, "end 3" for data whose end
comes 3 s late, "full 2" for a full disk in the second save, "save 3.04" for SIGKILL 0.04 s after the
third save has begun, "step 3.04" after the third step.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hmoe.compat.stack import tf
from hmoe.t5.sessions import part_writer, session_graph
from tests.t5 import killed

HARM = "HMOE_TESTS_HARM"


def data(batch: float) -> None:
    """Makes the data fail in a batch."""
    get_next = session_graph._next
    left = [batch]

    def check(*ids: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise ValueError("line 7 of the data is spoilt")
        return ids[0]

    def spoil(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        targets = features["targets"]
        checked = tf.numpy_function(check, [targets], targets.dtype)
        checked.set_shape(targets.shape)
        return {**features, "targets": checked}

    session_graph._next = lambda dataset: get_next(dataset.map(spoil))


def end(seconds: float) -> None:
    """Makes the end of the data come late."""
    get_next = session_graph._next

    def wait() -> bool:
        time.sleep(seconds)
        return False

    def delayed(dataset: tf.data.Dataset) -> Any:
        zeros = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), dataset.element_spec)
        row = tf.data.Dataset.from_tensors(zeros)
        nothing = row.filter(lambda *row: tf.numpy_function(wait, [], tf.bool))
        return get_next(dataset.concatenate(nothing))

    session_graph._next = delayed


def full(save: float) -> None:
    """Makes the disk full in a save."""
    write, left = part_writer._save, [save]

    def check() -> int:
        left[0] -= 1
        if left[0] == 0:
            raise tf.errors.ResourceExhaustedError(None, None, "part; No space left on device")
        return 0

    def replacement(path: tf.Tensor, variables: list[tf.Variable]) -> tf.Operation:
        with tf.control_dependencies([tf.numpy_function(check, [], tf.int64)]):
            return write(path, variables)

    part_writer._save = replacement


def save(moment: float) -> None:
    """Kills in a save, some time after it has begun."""
    write, left = part_writer.PartWriter.write, [int(moment)]

    def replacement(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            killed.after(moment % 1)
        write(*arguments)

    part_writer.PartWriter.write = replacement  # type: ignore[method-assign]


HARMS: dict[str, Callable[[float], None]] = {
    "data": data,
    "end": end,
    "full": full,
    "save": save,
    "step": killed.after_steps,
}


def _number() -> str:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--worker_index", default="")
    return parser.parse_known_args(sys.argv)[0].worker_index


def _read() -> None:
    given = json.loads(os.environ.get(HARM, "{}"))
    found = given.get("what", {}).get(_number())
    if not found:
        return
    if "once" in given:
        try:
            Path(given["once"]).touch(exist_ok=False)
        except FileExistsError:
            return
    word, moment = found.split()
    HARMS[word](float(moment))


_read()
