"""The processes of a run, by flags or by TF_CONFIG."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from hmoe.cli import main
from hmoe.startup import saved_run, workers
from hmoe.startup.request import Request
from hmoe.startup.workers import Workers

TWO = ("localhost:2222", "10.0.0.3:2223")
EXAMPLE = (
    'An example: {"cluster": {"worker": ["10.0.0.2:2222", "10.0.0.3:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def found(*words: str, tf_config: Any = None, command: str = "train") -> Workers | None:
    """Returns the processes that the words of a command and TF_CONFIG name."""
    environ = {}
    if tf_config is not None:
        environ["TF_CONFIG"] = tf_config if isinstance(tf_config, str) else json.dumps(tf_config)
    flags = main.build_parser().parse_args([command, *words])
    return Request.from_flags(flags, environ).workers


def message(*words: str, tf_config: Any = None) -> str:
    with pytest.raises(ValueError) as error:
        found(*words, tf_config=tf_config)
    return str(error.value)


@pytest.mark.parametrize("command", ["train", "eval", "predict", "score"])
def test_flags(command: str) -> None:
    words = (f"--workers={','.join(TWO)}", "--worker_index=1")
    assert found(*words, command=command) == Workers(addresses=TWO, index=1)
    more = ("--trust_network", "--lost_after=2.5", "--start_within=7")
    workers = Workers(addresses=TWO, index=1, trust_network=True, lost_after=2.5, start_within=7.0)
    assert found(*words, *more, command=command) == workers
    assert not workers.is_first
    assert (workers.own.host, workers.own.port) == ("10.0.0.3", 2223)


def test_one_process() -> None:
    assert found() is None
    assert found("--workers=localhost:2222", "--worker_index=0") is None
    assert found(tf_config=cluster({"worker": ["a:1"]}, "worker", 0)) is None
    assert found(tf_config=cluster({"chief": ["a:1"]}, "chief", 0)) is None
    for text in ("", " ", "{}", '{"cluster": {}}', '{"task": {"type": "worker"}}'):
        assert found(tf_config=text) is None


def cluster(jobs: Any, kind: str, index: Any) -> dict[str, Any]:
    return {"cluster": jobs, "task": {"type": kind, "index": index}, "environment": "cloud"}


@pytest.mark.parametrize(
    ("jobs", "kind", "index", "addresses", "number"),
    [
        ({"worker": ["a:1", "b:2"]}, "worker", 1, ("a:1", "b:2"), 1),
        ({"worker": ["a:1", "b:2"]}, "worker", "1", ("a:1", "b:2"), 1),
        ({"worker": ["a:1", "b:2"], "chief": ["c:3"]}, "worker", 0, ("c:3", "a:1", "b:2"), 1),
        ({"worker": ["a:1", "b:2"], "chief": ["c:3"]}, "chief", 0, ("c:3", "a:1", "b:2"), 0),
        ({"master": ["c:3"], "worker": ["a:1"]}, "master", 0, ("c:3", "a:1"), 0),
    ],
)
def test_tf_config(jobs: Any, kind: str, index: Any, addresses: tuple, number: int) -> None:
    assert found("--lost_after=5", tf_config=cluster(jobs, kind, index)) == Workers(
        addresses=addresses, index=number, lost_after=5.0, given_by="TF_CONFIG"
    )


def test_flags_come_before_tf_config() -> None:
    words = (f"--workers={','.join(TWO)}", "--worker_index=0")
    assert found(*words, tf_config="no JSON") == Workers(addresses=TWO, index=0)
    assert found(command="export", tf_config="no JSON") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "it is no JSON (Expecting property name enclosed in double quotes: line 1 column 2 "
         "(char 1))"),
        ("[1]", "it is [1], which is no JSON object"),
        ('{"cluster": ["a:1"]}', "its cluster is ['a:1'], which is no object with a list for each "
         "job"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}}', "its task is None; it must tell which process "
         "this is"),
        (cluster({"worker": ["a:1"], "ps": ["b:1"]}, "worker", 0),
         "its cluster has the job 'ps', but a run of hmoe has workers alone, and at most one chief; "
         "leave that job out"),
        (cluster({"worker": ["a:1", "b:1"]}, "evaluator", 0),
         "its task has the type 'evaluator'; a process of hmoe is a worker, or the chief. Start no "
         "other, or without TF_CONFIG (env -u TF_CONFIG hmoe ...)"),
        (cluster({"worker": ["a:1", "b:1"]}, "worker", 2),
         "its task is worker 2, but its cluster has 2 of that type, numbered from 0"),
        (cluster({"worker": ["a:1", "b:1"]}, "worker", True),
         "its task is worker True, but its cluster has 2 of that type, numbered from 0"),
        (cluster({"worker": ["a:1", "b:1"]}, "chief", 0),
         "its task is chief 0, but its cluster has 0 of that type, numbered from 0"),
        (cluster({"worker": {"0": "a:1"}}, "worker", 0),
         "its cluster has {'0': 'a:1'} for worker, which is no list of addresses"),
        (cluster({"chief": ["a:1", "b:1"]}, "chief", 0),
         "its cluster has 2 chiefs; name one, and the others as workers"),
        (cluster({"chief": ["a:1"], "master": ["b:1"]}, "chief", 0),
         "its cluster has both a chief and a master; name the first process once"),
    ],
)  # fmt: skip
def test_errors_of_tf_config(text: Any, problem: str) -> None:
    assert message(tf_config=text) == f"TF_CONFIG: {problem}. {EXAMPLE}"


def test_errors_name_what_gave_the_addresses() -> None:
    given = cluster({"worker": ["a:1", "b"]}, "worker", 0)
    assert message(tf_config=given) == (
        "TF_CONFIG has 'b', which is no address; it must be host:port, such as 10.0.0.2:2222 or "
        "[::1]:2222"
    )
    assert message("--workers=a:1,b:2,a:1", "--worker_index=0") == (
        "--workers has 'a:1' twice, for processes 0 and 2; each needs an address of its own"
    )


def test_no_address_is_kept_with_a_model() -> None:
    fields = {field.name for field in dataclasses.fields(Workers)}
    assert not {"workers", "worker_index", *fields} & set(saved_run.KEPT_FLAGS)


def test_the_notice_about_the_server() -> None:
    assert workers.notice(Workers(addresses=TWO, index=1)) == (
        "Process 1 of 2: TensorFlow's server listens on port 2223 of all interfaces of this "
        "machine, without authentication, and runs any graph that it is sent (docs/security.md)"
    )
