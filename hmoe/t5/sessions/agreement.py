"""Makes sure that all processes of a run are about to do the same, before they do it.

Processes that run other collectives, or in another order, would wait for one another for ever.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping

import numpy as np

from hmoe.compat.stack import tf
from hmoe.lowering.collective import group_key
from hmoe.t5.sessions import processes

# Numbers of the collectives here; those of meshes begin at 1000.
_DIGESTS, _LENGTHS, _TEXTS, _FLAGS, _FAREWELL = 2, 3, 4, 5, 6
# Whatever is compared goes in one collective, so that processes that compare other things meet too.
_NUM_DIGESTS = 8
# Seconds that a process waits, at its end, for the others to have received its last exchange.
_FAREWELL_WITHIN = 30.0


def leave_together() -> None:
    """Waits until every process of the run has come here, and ends their watch on one another.

    Raises:
      ValueError: a process is about to do something else.
      ProcessLostError: a process is gone.
    """
    found = processes.current()
    if found is None:
        return
    if found.watch:
        found.watch.expect_ends()
    check({"next step": "end"})
    if found.watch:
        found.watch.stop()
    _farewell()


def _farewell() -> None:
    """Waits until all have received what they need of this process to end as well.

    A process whose exchange is complete may still be sending its part to another one, which fails
    if this one ends. Whoever comes here has received everything, so that one exchange more shows
    that all have; and whether that one succeeds does not matter to anybody.
    """
    with contextlib.suppress(tf.errors.OpError):
        _run_gather(np.zeros([1], np.int32), _FAREWELL, within=_FAREWELL_WITHIN)


def check(topics: Mapping[str, str]) -> None:
    """Compares what the processes of the run are about to do.

    Args:
      topics: texts that must be equal in all processes, by what they are.

    Raises:
      ValueError: a process differs; the message shows the first line that does.
      ProcessLostError: a process is gone.
    """
    if processes.current() is None:
        return
    own = [_digest(f"{name}\n{text}") for name, text in topics.items()]
    assert len(own) <= _NUM_DIGESTS, "too much to compare"
    padded = [*own, *[0] * (_NUM_DIGESTS - len(own))]
    # [1, digests] -> [processes, digests]
    digests = _gather(np.array([padded], np.int64), _DIGESTS)
    for place in range(_NUM_DIGESTS):
        others = [n for n, digest in enumerate(digests[:, place]) if digest != digests[0, place]]
        if others:
            name, text = [*topics.items(), *[("end", "")] * _NUM_DIGESTS][place]
            _raise_difference(_texts_of_all(f"{name}\n{text}"), others[0])


def any_of(flag: bool) -> bool:
    """Waits for all processes, and returns whether the flag of any of them is true.

    Raises:
      ProcessLostError: a process is gone.
    """
    if processes.current() is None:
        return flag
    return bool(_gather(np.array([flag], np.int32), _FLAGS).any())


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


def _raise_difference(texts: list[str], other: int) -> None:
    (name, *mine), (its_name, *its) = texts[0].splitlines(), texts[other].splitlines()
    advice = "Start all with the same command, gin files, data and code"
    if name != its_name:
        raise ValueError(
            f"the processes of the run are not at the same point: process 0 has come to the {name} "
            f"({_first(mine)}), process {other} to the {its_name} ({_first(its)}). {advice}"
        )
    place = next((n for n, (a, b) in enumerate(zip(mine, its)) if a != b), min(len(mine), len(its)))
    first, second = (lines[place] if place < len(lines) else "nothing" for lines in (mine, its))
    raise ValueError(
        f"the processes of the run differ in their {name}, line {place + 1}: process 0 has "
        f"{first!r}, process {other} has {second!r}. {advice}"
    )


def _first(lines: list[str]) -> str:
    return lines[0] if lines else "nothing"


def _gather(value: np.ndarray, number: int) -> np.ndarray:
    """Joins the arrays of all processes along their first dimension.

    Args:
      value: this process's array.
      number: that of the collective, the same in all processes.

    Raises:
      ProcessLostError: a process is gone.
    """
    with processes.noticing_loss():
        return _run_gather(value, number)


def _run_gather(value: np.ndarray, number: int, within: float | None = None) -> np.ndarray:
    """Does what `_gather` says, within some seconds if that is given, and leaves errors alone."""
    found = processes.current()
    assert found is not None
    config = processes.session_config(tf.ConfigProto())
    options = processes.run_options()
    assert options is not None
    if within is not None:
        options.timeout_in_ms = round(within * 1000)
    with tf.Graph().as_default():
        with tf.device(found.device.replace("GPU", "CPU")):
            joined = tf.raw_ops.CollectiveGatherV2(
                input=value,
                group_size=found.size,
                group_key=group_key([-1, *range(found.size)]),
                instance_key=number,
                ordering_token=[],
            )
        session = tf.Session(found.target, config=config)
        everything = session.run(joined, options=options)
        session.close()
    return everything
