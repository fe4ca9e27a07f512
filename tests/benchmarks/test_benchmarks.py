"""The driver of `make bench`: sizes, turns, comparisons, errors, and the page."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import cases, measure, picture, report
from benchmarks.sides import start
from benchmarks.sizes import Size, upstream_groups
from benchmarks.workers import ROOT, SideError, Worker

TINY = dict(d_model=32, hidden=64, batch=16, length=16, group=64)


def timed(*values, **more):
    return dict({"seconds": measure.statistics_of(list(values)), "more": {}}, **more)


@pytest.mark.parametrize(
    ("size", "groups", "slots"),
    [
        (Size(), (1024, 1280), 5120),
        (Size(group=256), (256, 256), 5120),
        (Size(group=4096), (4096, 1280), 5120),
        (Size(experts=(16, 16)), (1024, 320), 5120),
        (Size(experts=(16,), capacity_factors=(1.25,), splits=(1,)), (1024,), 5120),
        (Size(outer_batch=2, batch=32, group=512, splits=(4, 2)), (512, 640), 5120),
        # At least 4 slots an expert and a group.
        (Size(batch=2, length=8, group=16), (16, 5), 64),
    ],
)
def test_slots_follow_from_sizes(size, groups, slots):
    assert size.groups == groups
    assert size.slots == slots


def test_flops_are_those_of_three_passes():
    size = Size(d_model=3, hidden=5, batch=2, length=8, group=16)
    assert size.flops() == 3 * 2 * 2 * 64 * 3 * 5
    assert size.flops(matrices=3, slots=7) == 3 * 3 * 2 * 7 * 3 * 5


def test_groups_are_those_of_mesh_tensorflow():
    from tests.upstream import upstream_moe

    for tokens in (48, 960, 1280, 4096):
        for largest in (7, 64, 256, 1024, 5000):
            for splits in (1, 2, 4):
                expected = upstream_moe._split_into_groups(tokens, largest, splits)
                assert upstream_groups(tokens, largest, splits) == expected


def test_every_name_in_a_case_is_one_of_its_sides():
    all_cases = cases.all_cases()
    for name, case in all_cases.items():
        names = [side.name for side in case.sides]
        assert len(set(names)) == len(names), name
        for same in case.same:
            assert {same.first, same.second} <= set(names), name
        for aim in case.aims:
            assert {*aim.of, *aim.to} <= set(names), name
        for side in case.sides:
            assert (ROOT / "benchmarks/sides" / f"{side.module}.py").exists()


def test_sides_step_in_turns_with_a_peak_beside_each():
    calls = []

    def step(name):
        calls.append(name)
        return {"step": len(calls)}

    def peak(name):
        calls.append(f"peak {name}")
        return 5.0

    seconds, peaks = measure.in_turns(["a", "b"], 2, step, peak, pause=lambda seconds: None)
    assert calls == ["a", "peak a", "b", "peak b"] * 2
    assert seconds == {"a": [{"step": 1}, {"step": 5}], "b": [{"step": 3}, {"step": 7}]}
    assert peaks == {"a": [5.0, 5.0], "b": [5.0, 5.0]}


def test_statistics_have_median_and_quartiles():
    told = measure.statistics_of([4.0, 1.0, 2.0, 3.0, 10.0])
    assert (told["median"], told["min"], told["max"]) == (3.0, 1.0, 10.0)
    assert told["quartiles"] == [2.0, 4.0]
    assert measure.statistics_of([2.0])["quartiles"] == [2.0, 2.0]


def saved(folder, name, **arrays):
    path = folder / f"{name}.npz"
    np.savez(path, **arrays)
    return path


def test_comparison_tells_the_largest_difference_and_forgives_dimensions_of_one(tmp_path):
    first = saved(tmp_path, "first", loss=np.array(2.0), outputs=np.array([[1.0, 4.0]]))
    second = saved(tmp_path, "second", loss=np.array(2.0), outputs=np.array([1.0, 4.0004]))
    told = measure.compare(cases.Same("a", "b", 2e-4), first, second)
    assert told["of"] == "outputs"
    assert told["largest"] == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            dict(loss=np.array(2.1)),
            "'a' and 'b' differ in loss by 0.05 of its largest number; at most 0.0001 is rounding",
        ),
        (
            dict(loss=np.array(np.nan)),
            "'a' and 'b' differ in loss by inf of its largest number; at most 0.0001 is rounding",
        ),
        (
            dict(loss=np.array([2.0, 2.0])),
            "'a' and 'b' differ in loss by inf of its largest number; at most 0.0001 is rounding",
        ),
        (
            dict(loss=np.array(2.0), outputs=np.array(1.0)),
            "'a' and 'b' tell different arrays: ['outputs']",
        ),
    ],
    ids=["numbers", "nan", "shapes", "names"],
)
def test_other_numbers_are_an_error(tmp_path, arrays, message):
    first = saved(tmp_path, "first", loss=np.array(2.0))
    with pytest.raises(measure.MismatchError) as error:
        measure.compare(cases.Same("b", "a"), saved(tmp_path, "second", **arrays), first)
    assert str(error.value) == message.replace("'a' and 'b'", "'b' and 'a'")


class FakeWorker:
    """Answers at once; `loss` is its number."""

    living = 0
    seconds_to_start = 1.0

    def __init__(self, python, module, kind, settings, log):
        if settings.get("broken"):
            raise SideError("start: ImportError: no such thing; see a.log")
        self._settings = settings
        FakeWorker.living += 1

    def ask(self, word, path=None):
        if self._settings.get("fails_at") == word:
            raise SideError(f"{word}: RuntimeError: no room; see a.log")
        if word == "compare":
            np.savez(path, loss=np.array(self._settings["loss"]))
        return {
            "describe": {
                "library": "fake",
                "dtype": "float32",
                "flops": 30,
                "slots": 5,
                "matrices": 2,
                "packages": {"fake": "1"},
            },
            "step": 3.0,
            "peak": 20.0,
            "memory": {"peak": 9e6, "net": 4e6},
            "compare": None,
        }[word]

    def stop(self):
        FakeWorker.living -= 1


def fake_case(**others):
    sides = tuple(cases.Side(name, "", "", settings) for name, settings in others.items())
    aims = (
        cases.Aim("as fast", ("hmoe",), ("peer",), at_most=1.1),
        cases.Aim("twice as fast", ("peer",), ("hmoe",), at_least=2.0),
    )
    return cases.Case("case", "A case", (sides,), (cases.Same("hmoe", "peer"),), aims)


@pytest.fixture
def run_fake(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "Worker", FakeWorker)
    monkeypatch.setattr(measure, "PAUSE", 0.0)

    def run(**others):
        case = fake_case(**others)
        result = measure.run_case(case, 2, {"own": "python"}, tmp_path, lambda line: None)
        assert FakeWorker.living == 0
        return dict(
            result,
            aims=report.judged(case, result["sides"]),
            run={
                "date": "2026-01-02",
                "processor": "2 x Chip",
                "memory_gb": 8.0,
                "platform": "Linux x86_64",
                "commit": "abc",
                "turns": 2,
                "command": "make bench",
            },
        )

    return run


def test_a_case_tells_seconds_efficiency_and_memory(run_fake):
    result = run_fake(hmoe={"loss": 2.0}, peer={"loss": 2.0})
    assert "error" not in result
    side = result["sides"]["hmoe"]
    assert side["seconds"]["all"] == [3.0, 3.0]
    assert side["efficiency"] == pytest.approx(30 / (3.0 * 20.0))
    assert side["peak"] == {"median": 20.0, "best": 20.0}
    assert [aim["reached"] for aim in result["aims"]] == [True, False]
    assert json.loads(json.dumps(result)) == result


def test_a_mismatch_is_an_error_of_the_case_and_nothing_is_timed(run_fake):
    result = run_fake(hmoe={"loss": 2.0}, peer={"loss": 1.0})
    assert result["error"] == (
        "'hmoe' and 'peer' differ in loss by 1 of its largest number; at most 0.0001 is rounding"
    )
    assert "seconds" not in result["sides"]["hmoe"]
    assert [aim["ratio"] for aim in result["aims"]] == [None, None]
    assert f"| case | | error: {result['error']} | |" in report.page({"case": result})


def test_a_side_that_cannot_be_built_leaves_the_others_measured(run_fake):
    result = run_fake(hmoe={"loss": 2.0}, peer={"broken": True})
    assert result["sides"]["peer"] == {"error": "start: ImportError: no such thing; see a.log"}
    assert result["sides"]["hmoe"]["seconds"]["median"] == 3.0
    assert [aim["ratio"] for aim in result["aims"]] == [None, None]


@pytest.mark.parametrize("word", ["describe", "memory", "compare"])
def test_a_side_that_fails_on_the_way_is_not_timed(run_fake, word):
    result = run_fake(hmoe={"loss": 2.0}, peer={"loss": 2.0, "fails_at": word})
    assert result["sides"]["peer"] == {"error": f"{word}: RuntimeError: no room; see a.log"}
    assert "error" not in result


def test_a_side_that_fails_while_it_is_timed_is_an_error_of_the_case(run_fake):
    result = run_fake(hmoe={"loss": 2.0}, peer={"loss": 2.0, "fails_at": "peak"})
    assert result["error"] == "peak: RuntimeError: no room; see a.log"


def test_page_and_picture_have_every_side(run_fake):
    result = run_fake(hmoe={"loss": 2.0}, peer={"loss": 2.0})
    text = report.page({"case": result})
    assert "| hmoe | 5 x 2 | 3.000 | 3.000 to 3.000 | 0 | 50 % | 4 (9) |" in text
    assert "| case | as fast (at most 1.1) | 1.00 | reached |" in text
    assert "| case | twice as fast (at least 2) | 1.00 | **not reached** |" in text
    assert (
        "- 2026-01-02, 2 x Chip, 8 GB, Linux x86_64; commit abc; 2 turns; `make bench`"
        in text.splitlines()
    )
    assert "- fake 1" in text.splitlines()
    svg = picture.picture({"case": result})
    assert svg.count("<rect") == 3
    assert "3 s, 50 % of peak" in svg


def test_further_seconds_have_a_column_and_aims_of_their_own():
    case = dataclasses.replace(
        fake_case(), aims=(cases.Aim("update", ("hmoe",), ("peer", "other"), "update"),)
    )
    sides = {
        name: timed(
            1.0,
            more={"update": measure.statistics_of([value])},
            slots=0,
            memory={"peak": 2e6, "net": 1e6},
        )
        for name, value in (("hmoe", 6.0), ("peer", 2.0), ("other", 3.0))
    }
    told = report.judged(case, sides)
    assert [(aim["ratio"], aim["reached"]) for aim in told] == [(2.0, None)]
    lines = report.case_lines(
        {"name": "case", "title": "A case", "sides": sides, "comparisons": [], "aims": told}
    )
    assert "| hmoe |  | 1.000 | 1.000 to 1.000 |  |  | 1 (2) | update 6.000 |" in lines
    assert "- update: 2.00." in lines


def test_cases_are_added_to_those_that_were_measured_before(tmp_path, run_fake):
    result = run_fake(hmoe={"loss": 2.0}, peer={"loss": 2.0})
    command.write(tmp_path, {"b": dict(result, name="b")}, ["a", "b"])
    command.write(tmp_path, {"a": dict(result, name="a")}, ["a", "b"])
    assert list(json.loads((tmp_path / "benchmarks.json").read_text())) == ["a", "b"]
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.index("### a") < page.index("### b")


def test_a_side_that_fails_says_why(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(SideError, match=r"start: TypeError: .*'surplus'"):
        Worker(sys.executable, "start", "Train", {"gin_files": [], "surplus": 1}, log)
    assert "Traceback" in log.read_text()
    with pytest.raises(SideError, match="No module named 'benchmarks.sides.missing'"):
        Worker(sys.executable, "missing", "Side", {}, log)
    with pytest.raises(SideError, match=r"start: .*nowhere.*; `make bench` makes the environ"):
        Worker(str(tmp_path / "nowhere"), "start", "Train", {}, log)


def test_a_process_answers_until_it_is_stopped(tmp_path):
    worker = Worker(sys.executable, "start", "Train", {"gin_files": []}, tmp_path / "log")
    assert worker.ask("peak") == 0.0
    assert "python" in worker.ask("describe")["packages"]
    worker.stop()
    assert worker._process.returncode == 0


def test_a_process_that_was_killed_is_an_error(tmp_path):
    worker = Worker(sys.executable, "start", "Train", {"gin_files": []}, tmp_path / "log")
    worker._process.kill()
    worker._process.wait()
    with pytest.raises(SideError, match="ended at 'peak' with status -9; see .*log"):
        worker.ask("peak")
    worker.stop()


def test_the_lines_that_tell_the_start_are_those_of_the_trainer():
    said = "".join(
        (ROOT / "hmoe/t5/sessions" / name).read_text()
        for name in ("training_loop.py", "progress.py")
    )
    for line in start._LINES:
        assert f'"{line}' in said, line


@pytest.mark.slow
def test_a_trace_tells_the_time_of_operations_by_kind():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.trace", "--group=256", "--steps=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    hmoe, bare = result.stdout.split("bare multiplies: ")
    assert "hmoe: " in hmoe
    assert "x GatherV2\n" in hmoe
    assert "GatherV2" not in bare
    assert "MatMul" in bare


@pytest.mark.slow
def test_our_layer_upstreams_and_the_bare_multiplies_from_end_to_end(tmp_path):
    size = {name: value for name, value in TINY.items() if name != "group"}
    case = cases.two_levels(1024, 2.2, **size)
    logs = pathlib.Path(tmp_path)
    result = measure.run_case(case, 2, {"own": sys.executable}, logs, lambda line: None)
    assert "error" not in result
    assert result["comparisons"][0]["largest"] < 1e-5
    assert [aim["ratio"] is None for aim in report.judged(case, result["sides"])] == [False] * 3
    for side in result["sides"].values():
        assert side["slots"] == 320
        assert len(side["seconds"]["all"]) == 2
        assert 0 < side["efficiency"] < 1
        assert 0 < side["memory"]["net"] < side["memory"]["peak"]
