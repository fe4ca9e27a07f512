"""What a report writes, and that it writes nothing where something is wrong."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hmoe.analysis import traces
from hmoe.cli import main
from hmoe.report import make, runs
from tests.analysis import made_traces
from tests.report import made_runs
from tests.report.tables import tables_of

# Metrics that a run in full has too.
_FULL = {
    "max_violation_of_steps": 0.75,
    "expert_usage": 0.875,
    "router_confidence": 0.625,
    "entropy": 0.3,
}
# The lines of a run that has one picture.
DENSE = [made_runs.line(5, loss=2.5)]
_MACRO = "MIXTURE_NAME = 'cldr_names'\n"
_BOUND = "mesh_train_dataset_fn.mixture_or_task_name = {}\n"


def report(folder: Path, **arguments: object) -> str:
    """Returns the text of a run's report."""
    return Path(make.report(str(folder), print, **arguments)).read_text(encoding="utf-8")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_files_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = made_runs.make(tmp_path / "run", made_runs.lines(12))
    assert main.main(["report", f"--model_dir={run}"]) == 0
    page, folder = run / "report.html", run / "report_pictures"
    names = ["dropped-inner", "dropped-outer", "loss", "maxvio-inner", "maxvio-outer"]
    pictures = [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert sorted(p.name for p in folder.iterdir()) == [*pictures, "written.json"]
    assert capsys.readouterr().out == (
        f"Wrote {page}, and its 5 pictures as SVG and PNG to {folder}\n"
    )
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in folder.glob("*.png"))
    assert page.stat().st_size < 5_000_000


def test_what_ran_and_the_last_steps(tmp_path: Path) -> None:
    full = {f"{made_runs.LAYER}/outer/{name}": n for name, n in _FULL.items()}
    run = made_runs.make(tmp_path / "run", [{**each, **full} for each in made_runs.lines(12)])
    text = report(run)
    tables = tables_of(text)
    ran = dict(tables["What ran"][1:])
    assert ran["folder"] == str(run)
    assert ran["last report of training"] == "step 120"
    assert ran["newest checkpoint"] == "none here"
    assert ran["data"] == "pairs.tsv"
    # The mean over reports 3 to 12, the last 100 steps, of 1 + 2 * 0.3 / n.
    mean = sum(1 / n for n in range(3, 13)) / 10
    assert tables["Step 120"][0] == [
        "layer and level",
        "MaxVio of single steps",
        "MaxVio between reports",
        "tokens dropped",
        "arrivals dropped",
        "expert usage",
        "router confidence",
        "entropy",
        "dead experts",
    ]
    assert tables["Step 120"][1] == [
        f"{made_runs.LAYER}/outer",
        "0.750",
        f"{0.6 * mean:.3f}",
        f"{0.1 * mean:.2%}",
        f"{0.2 * mean:.2%}",
        "87.50%",
        "0.625",
        "0.300",
        "0",
    ]
    assert tables["Step 120"][2][5:] == ["-", "-", "-", "0"]  # not recorded
    assert "utils.run.train_steps = 9" in text


@pytest.mark.parametrize(
    ("gin", "expected"),
    [
        (_MACRO + _BOUND.format("%MIXTURE_NAME"), "cldr_names"),
        (_MACRO, "cldr_names"),
        (_MACRO + _BOUND.format("'cldr'"), "cldr"),
        ("utils.run.train_steps = 9\n", None),
        (_MACRO + "no gin", None),
        ("MIXTURE_NAME = %MIXTURE_NAME\n", None),
        ("MIXTURE_NAME = @task\n", None),
    ],
    ids=["macro", "macro alone", "bound", "none", "damaged", "endless", "reference"],
)
def test_data_of_a_run_on_a_mixture(tmp_path: Path, gin: str, expected: str | None) -> None:
    run = made_runs.make(tmp_path / "run", DENSE, gin=gin, data="")
    assert runs.read(str(run)).data == ({"data": expected} if expected else {})
    assert dict(tables_of(report(run))["What ran"]).get("data") == expected


def test_versions_that_trained_a_run(tmp_path: Path) -> None:
    run = made_runs.make(tmp_path / "run", DENSE)
    told = [
        {"from_step": 0, "hmoe": "0.0.7", "mesh_tensorflow": "0.1"},
        {"from_step": 1500, "hmoe": "0.0.8", "mesh_tensorflow": "0.2"},
    ]
    (run / "run.json").write_text(json.dumps({"versions": told}), encoding="utf-8")
    ran = tables_of(report(run))["What ran"]
    assert ["trained by", "hmoe 0.0.7, mesh tensorflow 0.1"] in ran
    assert ["trained by after step 1,500", "hmoe 0.0.8, mesh tensorflow 0.2"] in ran
    (run / "run.json").write_text(json.dumps({"versions": told[1:]}), encoding="utf-8")
    names = [row[0] for row in tables_of(report(run))["What ran"] if "trained by" in row[0]]
    assert names == ["trained by after step 1,500"]


def test_pictures_of_an_earlier_report_go(tmp_path: Path) -> None:
    """Only what a report wrote and nobody has changed."""
    run = made_runs.make(tmp_path / "run", made_runs.lines(3))
    dense = made_runs.make(tmp_path / "dense", DENSE)
    page, folder = tmp_path / "a.html", tmp_path / "a_pictures"
    report(run, path=str(page))
    (folder / "maxvio-outer.svg").write_text("changed", encoding="utf-8")
    (folder / "maxvio-own.svg").write_text("of the user", encoding="utf-8")
    report(dense, path=str(page))
    left = ["loss.png", "loss.svg", "maxvio-outer.svg", "maxvio-own.svg", "written.json"]
    assert sorted(p.name for p in folder.iterdir()) == left


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a.svg": 1}', '{"../loss.svg": "%s"}'])
def test_a_damaged_list_of_pictures_removes_nothing(tmp_path: Path, damage: str) -> None:
    run = made_runs.make(tmp_path / "run", DENSE)
    report(run)
    folder = run / "report_pictures"
    digest = json.loads((folder / "written.json").read_text(encoding="utf-8"))["loss.svg"]
    (run / "loss.svg").write_bytes((folder / "loss.svg").read_bytes())
    (folder / "a.svg").write_text("of the user", encoding="utf-8")
    before = files(run)
    (folder / "written.json").write_text(damage.replace("%s", digest), encoding="utf-8")
    report(run)
    assert files(run) == before


def test_what_lines_of_the_load_are(tmp_path: Path) -> None:
    text = html.unescape(report(made_runs.make(tmp_path / "run", made_runs.lines(3))))
    assert (
        "Each layer and level, and its leaves; every choice of a real token counts 1, before policy"
        " and capacity. Full: MaxVio of single steps, the mean over the last 100; faint: the mean"
        " since the report before; dashed: MaxVio of the demand summed over 100 steps. Where a run"
        " does not tell of single steps, as on a TPU, full and faint are MaxVio of the demand summed"
        " since the report before."
    ) in text


def test_single_steps_and_a_hundred_together(tmp_path: Path) -> None:
    """Of each level and of the leaves; a run on a TPU has the demand between reports alone."""
    found = made_runs.lines(30)
    for number, each in enumerate(found, 1):
        for place, value in (("outer/", 4.0), ("inner/", 5.0), ("", 7.0)):
            each[f"{made_runs.LAYER}/{place}max_violation_of_steps"] = value + 1 / number
            if number % 10 == 0:
                each[f"{made_runs.LAYER}/{place}max_violation_of_100_steps"] = value - number / 10
    text = html.unescape(report(made_runs.make(tmp_path / "run", found)))
    last = sum(1 / n for n in range(21, 31)) / 10  # over the last 100 steps
    for title, value in (("level 'outer'", 4), ("level 'inner'", 5), ("leaves", 7)):
        assert (
            f"MaxVio over steps, {title}. {made_runs.LAYER}: {value + 1:.3g} at step 10,"
            f" {value + last:.3g} at step 300; {made_runs.LAYER}, 100 steps together: {value - 1} at step"
            f" 100, {value - 3} at step 300."
        ) in text
    assert sorted(p.name for p in (tmp_path / "run" / "report_pictures").glob("maxvio-*.svg")) == [
        "maxvio-inner.svg",
        "maxvio-of-leaves.svg",
        "maxvio-outer.svg",
    ]


def test_a_run_that_tells_of_single_steps_at_its_end_alone(tmp_path: Path) -> None:
    """On a TPU, or where an earlier version began it: then the demand between reports is drawn."""
    found = made_runs.lines(3)
    found[-1][f"{made_runs.LAYER}/outer/max_violation_of_steps"] = 9.0
    text = html.unescape(report(made_runs.make(tmp_path / "run", found)))
    assert (
        f"MaxVio over steps, level 'outer'. {made_runs.LAYER}: 0.6 at step 10, 0.367 at step 30."
        in text
    )


def test_two_runs_share_their_axes(tmp_path: Path) -> None:
    first = made_runs.make(tmp_path / "first", made_runs.lines(12))
    second = made_runs.make(tmp_path / "second", made_runs.lines(30, high=40.0))
    page = tmp_path / "both.html"
    text = report(first, against=str(second), path=str(page))
    assert re.findall(r"<h3>(.*?)</h3>", text)[:2] == [str(first), str(second)]
    pictures = tmp_path / "both_pictures"
    ticks = {}
    for side in "ab":
        svg = (pictures / f"loss-{side}.svg").read_text(encoding="utf-8")
        ticks[side] = re.findall(r">([\d.]+)</text>", svg)
    assert ticks["a"] == ticks["b"]
    assert "300" in ticks["a"]


def test_a_run_without_experts_has_its_loss_alone(tmp_path: Path) -> None:
    run = made_runs.make(tmp_path / "run", DENSE)
    text = report(run)
    assert re.findall(r'<section id="(.*?)"', text)[0] == "loss"
    assert "load-over-steps" not in text


def test_a_damaged_line_is_left_out(tmp_path: Path) -> None:
    run = made_runs.make(tmp_path / "run", made_runs.lines(3))
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 40, "loss": \xff')
    assert dict(tables_of(report(run))["What ran"])["last report of training"] == "step 30"


def test_equal_runs_have_equal_reports(tmp_path: Path) -> None:
    run = made_runs.make(tmp_path / "run", made_runs.lines(3))
    report(run)
    before = files(run)
    report(run)
    assert files(run) == before


def test_all_text_is_escaped(tmp_path: Path) -> None:
    text = report(made_runs.make_hostile(tmp_path / "run"))
    sections = re.findall(r'<section id="(.*?)"', text)
    assert {"tree", "labels", "retention", "sentence"} <= set(sections)
    # Neither as markup, nor within the script's JSON; names of users are in both.
    assert "<script>window.hostile" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;window.hostile" in text
    assert r"\u003cscript\u003ewindow.hostile" in text
    assert {path.parent.name for path in tmp_path.rglob("*.svg")} == {"report_pictures"}


def test_a_damaged_trace_is_an_error_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = made_runs.make(tmp_path / "run", made_runs.lines(3))
    trace = run / "trace-7.parquet"
    traces.write(str(trace), made_traces.trace(4, 3, (2, 3), seed=1))
    trace.write_bytes(trace.read_bytes()[:-9])
    before = files(tmp_path)
    assert main.main(["report", f"--model_dir={run}"]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        f"hmoe: error: {re.escape(str(trace))}: no Parquet file, or a damaged one "
        r"\([^\n]*\); a trace is written by `hmoe trace`\n",
        errors,
    )
    assert files(tmp_path) == before


def test_a_report_loads_no_tensorflow(tmp_path: Path) -> None:
    run = made_runs.make(tmp_path / "run", made_runs.lines(3))
    code = (
        "import sys\nfrom hmoe.cli import main\n"
        f"assert main.main(['report', '--model_dir={run}']) == 0\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
