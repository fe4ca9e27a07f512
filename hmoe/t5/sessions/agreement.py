"""Makes sure, before the first step, that all processes of a run are about to do the same.

Processes that run other collectives, or in another order, would wait for one another for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from hmoe.compat.stack import tf
from hmoe.lowering.collective import group_key
from hmoe.t5.sessions import processes

# Numbers of the collectives here; those of meshes begin at 1000.
_BARRIER, _DIGESTS, _LENGTHS, _TEXTS = 1, 2, 3, 4


def wait_for_all() -> None:
    """Waits until every process of the run has come here."""
    if processes.current() is not None:
        ones = np.ones([1], np.float32)
        _exchange(
            lambda **keys: tf.raw_ops.CollectiveReduceV2(
                input=ones, merge_op="Add", final_op="Id", **keys
            ),
            _BARRIER,
        )


def check(topics: Mapping[str, str]) -> None:
    """Compares what the processes of the run are about to do.

    Args:
      topics: texts that must be equal in all processes, by what they are; the same names in all.

    Raises:
      ValueError: a process differs; the message shows the first line that does.
      ProcessLostError: a process is gone.
    """
    found = processes.current()
    if found is None:
        return
    # [1, topics] -> [processes, topics]
    digests = _gather(np.array([[_digest(text) for text in topics.values()]], np.int64), _DIGESTS)
    for place, name in enumerate(topics):
        others = [n for n, digest in enumerate(digests[:, place]) if digest != digests[0, place]]
        if others:
            _raise_difference(name, _texts_of_all(topics[name]), others[0])


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def _texts_of_all(text: str) -> list[str]:
    """Returns the texts of all processes."""
    own = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    lengths = _gather(np.array([own.size], np.int64), _LENGTHS)
    padded = np.zeros([1, max(lengths)], np.int32)
    padded[0, : own.size] = own
    rows = _gather(padded, _TEXTS)
    return [bytes(row[:n].astype(np.uint8)).decode() for row, n in zip(rows, lengths)]


def _raise_difference(name: str, texts: list[str], other: int) -> None:
    mine, its = texts[0].splitlines(), texts[other].splitlines()
    place = next((n for n, (a, b) in enumerate(zip(mine, its)) if a != b), min(len(mine), len(its)))
    first, second = (lines[place] if place < len(lines) else "nothing" for lines in (mine, its))
    raise ValueError(
        f"the processes of the run differ in their {name}, line {place + 1}: process 0 has "
        f"{first!r}, process {other} has {second!r}. Start all with the same command, gin files, "
        "data and code"
    )


def _gather(value: np.ndarray, number: int) -> np.ndarray:
    """Joins the arrays of all processes along their first dimension."""
    return _exchange(lambda **keys: tf.raw_ops.CollectiveGatherV2(input=value, **keys), number)


def _exchange(operation: Callable[..., tf.Tensor], number: int) -> np.ndarray:
    found = processes.current()
    assert found is not None
    config = processes.session_config(tf.ConfigProto())
    with tf.Graph().as_default():
        with tf.device(found.device.replace("GPU", "CPU")):
            result = operation(
                group_size=found.size,
                group_key=group_key([-1, *range(found.size)]),
                instance_key=number,
                ordering_token=[],
            )
        session = tf.Session(found.target, config=config)
        with processes.noticing_loss():
            value = session.run(result, options=processes.run_options())
        session.close()
    return value
