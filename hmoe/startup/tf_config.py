"""The processes of a run as TF_CONFIG names them, which TensorFlow's cluster managers set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NoReturn

NAME = "TF_CONFIG"
# Jobs of one process that comes first; TensorFlow has had both names for it.
_FIRST = ("chief", "master")
_WORKER = "worker"
_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.2:2222", "10.0.0.3:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def read(text: str) -> tuple[tuple[str, ...], int] | None:
    """Reads the processes of a run.

    Args:
      text: the value of TF_CONFIG.

    Returns:
      The address of each process, the chief's first, and the number of this one; None if it names
      no process.

    Raises:
      ValueError: it is malformed, or names jobs that a run does not have.
    """
    given = _parsed(text) if text.strip() else {}
    cluster = given.get("cluster") or {}
    if not cluster:
        return None
    if not isinstance(cluster, dict):
        _fail(f"its cluster is {cluster!r}, which is no object with a list for each job")
    first, workers = _first(cluster), _addresses(cluster, _WORKER)
    index = _index(given.get("task"), first, workers)
    return (*first, *workers), index


def _parsed(text: str) -> Mapping[str, object]:
    try:
        given = json.loads(text)
    except ValueError as error:
        _fail(f"it is no JSON ({error})")
    if not isinstance(given, dict):
        _fail(f"it is {given!r}, which is no JSON object")
    return given


def _first(cluster: Mapping[str, object]) -> list[str]:
    """Returns the address of the chief in a list, or an empty one; checks the names of the jobs."""
    for job in cluster:
        if job not in (*_FIRST, _WORKER):
            _fail(
                f"its cluster has the job {job!r}, but a run of hmoe has workers alone, and at "
                "most one chief; leave that job out"
            )
    if len(set(_FIRST) & set(cluster)) > 1:
        _fail("its cluster has both a chief and a master; name the first process once")
    found = [address for job in _FIRST if job in cluster for address in _addresses(cluster, job)]
    if len(found) > 1:
        _fail(f"its cluster has {len(found)} chiefs; name one, and the others as workers")
    return found


def _addresses(cluster: Mapping[str, object], job: str) -> list[str]:
    found = cluster.get(job, [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        _fail(f"its cluster has {found!r} for {job}, which is no list of addresses")
    return found


def _index(task: object, first: list[str], workers: list[str]) -> int:
    """Returns the number of this process in the run."""
    if not isinstance(task, dict):
        _fail(f"its task is {task!r}; it must tell which process this is")
    job, given = task.get("type"), task.get("index", 0)
    if job not in (*_FIRST, _WORKER):
        _fail(
            f"its task has the type {job!r}; a process of hmoe is a worker, or the chief. Start no "
            "other, or without TF_CONFIG (env -u TF_CONFIG hmoe ...)"
        )
    of_job = workers if job == _WORKER else first
    if isinstance(given, bool) or not str(given).isdecimal() or int(str(given)) >= len(of_job):
        _fail(
            f"its task is {job} {given!r}, but its cluster has "
            f"{len(of_job)} of that type, numbered from 0"
        )
    return int(str(given)) + (len(first) if job == _WORKER else 0)


def _fail(problem: str) -> NoReturn:
    raise ValueError(f"{NAME}: {problem}. An example: {_EXAMPLE}")
