"""Sections about traces, compared with routings whose answer is known."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path

import numpy as np
import pytest

from hmoe.analysis import retention_scores, traces
from hmoe.analysis.retention_scores import RetentionScore, RetentionStudy
from hmoe.analysis.traces import Category, Trace
from hmoe.report import make
from hmoe.storage import study_files
from tests.analysis import made_traces
from tests.report import made_runs
from tests.report.tables import tables_of

LAYERS = ("encoder/block_000/layer_001", "encoder/block_001/layer_001")
LABELS = ["de", "el"] * 20


def by_label(step: int, *, mixed: bool = False) -> Trace:
    """Returns a trace of 2 x 3 experts in which the outer group is the label, and the inner is 0.

    Args:
      step: of its checkpoint.
      mixed: whether the first half of the positions goes to the other group instead.
    """
    label = np.arange(len(LABELS)) % 2
    experts = np.zeros((len(LABELS), 2, 4, 2), int)
    experts[..., 0] = label[:, None, None]
    if mixed:
        experts[:, :, :2, 0] = 1 - experts[:, :, :2, 0]
    found = made_traces.of_experts(experts, (2, 3), LABELS, layers=LAYERS)
    return dataclasses.replace(found, manifest=dataclasses.replace(found.manifest, step=step))


def _sections(text: str) -> dict[str, str]:
    """Returns the markup of each section of a page by name."""
    found = re.findall(r'<section id="([\w-]+)"(.*?)</section>', text, re.DOTALL)
    return dict(found)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_runs.make(tmp_path_factory.mktemp("learned") / "run", made_runs.lines(3))
    traces.write(str(folder / "trace-9.parquet"), by_label(9))
    traces.write(str(folder / "trace-10.parquet"), by_label(10))
    traces.write(str(folder / "trace-4.parquet"), by_label(4, mixed=True))
    scores = [
        RetentionScore("de", "all", 1.0, 0.5, 7),
        RetentionScore("de", "top_groups", 0.5, 0.625, 7),
        RetentionScore("de", "random_groups", 0.5, 1.0, 7, seed=0),
        RetentionScore("de", "random_groups", 0.5, 2.0, 7, seed=1),
        RetentionScore("de", "without_group", 0.5, 3.25, 7, group=1),
        RetentionScore("de", "without_group", 0.5, 0.25, 7, group=0),
        RetentionScore("de", "without_group", 0.75, 0.625, 7, group=1, layer=LAYERS[1]),
    ]
    for step, label in ((9, "language"), (9, "kind"), (8, "language")):
        study = RetentionStudy(label, step, "runs/a/trace-9.parquet", "0.0", tuple(scores))
        path = folder / study_files.retention_name(step, label)
        retention_scores.write(str(path), study)
    return folder


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return Path(make.report(str(run), print)).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables(text: str) -> dict[str, list[list[str]]]:
    return tables_of(text)


def test_the_traces_stand_at_the_top_by_step(tables: dict) -> None:
    names = [row[0] for row in tables["What ran"]]
    assert names[-3:] == ["trace of step 4", "trace of step 9", "trace of step 10"]
    assert tables["What ran"][-1][1] == "40 examples, data cldr_names, hmoe 0.0"


def test_load(tables: dict) -> None:
    rows = tables["Load of each layer and level"]
    # Two outer experts share 160 tokens; of three inner ones the first has all.
    assert rows[1] == [f"{LAYERS[0]}/outer", "2", "0.000", "0.000", "2.00", "0", "0.00%", "160"]
    assert rows[2] == [f"{LAYERS[0]}/inner", "3", "2.000", "0.667", "1.00", "4", "0.00%", "160"]
    # Two of six leaves: 6 / 2 - 1, Gini 1 - 2 / 6.
    assert rows[3] == [f"{LAYERS[0]}, leaves", "6", "2.000", "0.667", "2.00", "4", "", ""]


def test_tree(tables: dict) -> None:
    rows = {row[0]: row[1:] for row in tables[f"{LAYERS[0]}: its experts"]}
    order = ["group 0", "leaf 0.0", "leaf 0.1", "leaf 0.2", "group 1", "leaf 1.0", "leaf 1.1"]
    assert list(rows) == ["expert", *order, "leaf 1.2"]
    assert rows["group 0"][:2] == ["50.0%", "de 100%"] or rows["group 0"][:2] == [
        "50.0%",
        "el 100%",
    ]
    assert rows["group 0"][1] == f"{LABELS[0]} 100%"
    assert rows["leaf 1.0"][:2] == ["50.0%", f"{LABELS[1]} 100%"]
    assert rows["leaf 1.1"] == ["0.0%", "", ""]


def test_information_is_all_at_the_outer_level(tables: dict) -> None:
    rows = {row[0]: row[1:] for row in tables["Information of language and experts"]}
    outer = rows[f"{LAYERS[0]}: outer"]
    assert outer[0] == "1.000"
    assert float(outer[3].rstrip("%")) > 95
    assert float(outer[4]) > 10
    assert rows[f"{LAYERS[0]}: inner, given its parent"][0] == "0.000"
    given_token = rows[f"{LAYERS[0]}: leaf, given the token"]
    assert given_token[0] == "1.000"
    # Another divisor than that of the column, which is said.
    assert tables["Information of language and experts"][0][4] == "of H(label)"
    assert re.fullmatch(r"9\d\.\d% of H\(label \| token\)", given_token[3])


def test_labels_and_vocabulary(tables: dict) -> None:
    rows = tables["The leaf that processes most tokens of each language, with its share of them"]
    assert rows[0] == ["layer", "de", "el"]
    assert rows[1] == [LAYERS[0], "0.0 (100%)", "1.0 (100%)"]
    # Each of the four tokens is in both labels, half of it at each leaf.
    rows = tables["Vocabulary specialization of each layer"]
    assert rows[1] == [LAYERS[0], "4", "0.50", "0.0 (0.50)", "0.0 (0.50)"]


def test_saturation(tables: dict) -> None:
    rows = tables["Saturation against step 10, and by chance"]
    assert rows[0] == ["layer and level", "step 4", "step 9"]
    assert rows[1] == [f"{LAYERS[0]}/outer", "50.0% (50.0%)", "100.0% (50.0%)"]
    assert rows[2] == [f"{LAYERS[0]}/inner", "50.0% (16.7%)", "100.0% (16.7%)"]


def test_coactivation_and_paths(text: str, tables: dict) -> None:
    assert "No token of this trace is processed by more than one leaf." in text
    rows = tables["How much tokens of a leaf stay together"]
    assert rows[1] == [f"{LAYERS[0]} to {LAYERS[1]}", "100.0%", "16.7%"]


def test_retention_of_the_last_step_by_each_label(text: str) -> None:
    section = text[text.index('<section id="retention"') :].partition("</section>")[0]
    said = re.findall(
        r"Step (\d+), by (\w+); what is used most is counted in (\S+) \(hmoe", section
    )
    assert said == [("9", label, "runs/a/trace-9.parquet") for label in ("kind", "language")]


@pytest.mark.parametrize("label", ["kind", "language"])
def test_retention(tables: dict, label: str) -> None:
    caption = (
        f"Excess of the loss with some experts kept, by {label}, ± standard deviation of a draw"
    )
    deviation = f"{np.sqrt(0.5):.3f}"
    assert tables[caption][1] == [
        "de, 50% kept",
        "0.500",
        "-",
        "0.125",
        "-",
        f"1.000 ± {deviation}",
    ]
    columns = [label, "without 0", "without 1"]
    caption = f"Excess of the loss by {label} without one outer group of "
    assert tables[f"{caption}all layers"] == [columns, ["de", "-0.250", "2.750"]]
    assert tables[f"{caption}{LAYERS[1]}"] == [columns, ["de", "-", "0.125"]]


def test_a_sentence_in_color(text: str) -> None:
    section = text[text.index('<section id="sentence"') :]
    first = section[section.index("<p><span") :].split("</p>")[0]
    assert first.count("<span") == 4
    assert 'title="leaf 0.0, weight 1.00"' in first
    assert ">p0<sub>0.0</sub></span>" in first


def test_tokens_on_two_leaves(tmp_path: Path) -> None:
    """One token in two goes to a second leaf of the same group too."""
    found = by_label(10)
    inner = found.numbers["level"] == 1
    doubled = np.flatnonzero(inner & (found.numbers["position"] < 2))
    numbers = {name: np.append(each, each[doubled]) for name, each in found.numbers.items()}
    for name in ("expert", "went"):
        numbers[name] = numbers[name].copy()
        numbers[name][-len(doubled) :] = 2
    categories = {
        name: Category(np.append(each.codes, each.codes[doubled]), each.names)
        for name, each in found.categories.items()
    }
    folder = made_runs.make(tmp_path / "run", made_runs.lines(3))
    more = dataclasses.replace(found, numbers=numbers, categories=categories)
    traces.write(str(folder / "trace-10.parquet"), more)
    tables = tables_of(Path(make.report(str(folder), print)).read_text(encoding="utf-8"))
    rows = tables["Co-activation of each layer"]
    # Of the 30 pairs, leaf 0 with 2 in each group: 50 % one way, 100 % the other.
    assert rows[1] == [LAYERS[0], "0.2 with 0.0", "100.0%", f"{2 * 1.5 / 30:.1%}"]


def test_other_tokens_at_another_checkpoint(tmp_path: Path) -> None:
    folder = made_runs.make(tmp_path / "run", made_runs.lines(3))
    traces.write(str(folder / "trace-9.parquet"), made_traces.trace(3, 4, (2, 3), seed=0))
    traces.write(str(folder / "trace-10.parquet"), dataclasses.replace(by_label(10)))
    text = Path(make.report(str(folder), print)).read_text(encoding="utf-8")
    assert (
        f"These traces cannot be compared: layer {LAYERS[0]}: the traces are not of the same tokens"
        " (12 and 160); trace the same data with both checkpoints."
    ) in text


def test_one_trace_alone_says_how_to_make_more(tmp_path: Path) -> None:
    folder = made_runs.make(tmp_path / "run", made_runs.lines(3))
    traces.write(str(folder / "trace-10.parquet"), by_label(10))
    text = Path(make.report(str(folder), print)).read_text(encoding="utf-8")
    assert (
        "Saturation compares checkpoints, and this run has a trace of step 10 alone. This command"
        " traces all checkpoints that are kept: <code>hmoe trace"
        f" --model_dir={folder} --gin_param='utils.run.eval_checkpoint_step = \"all\"'</code>"
    ) in html.unescape(text)


def test_every_section_has_a_formula_and_says_how_to_read_it(text: str) -> None:
    sections = _sections(text)
    assert len(sections) == 14
    for name, section in sections.items():
        for part in (
            r"</h2>\n<p>[^<]{20,}</p>",
            r'<p class="formula"><code>[^<]{20,}<',
            r'<p class="where">[^<]{20,}<',
        ):
            assert len(re.findall(part, section)) == 1, (name, part)


def test_what_stands_in_a_table_has_its_formula(text: str) -> None:
    formulas = {
        name: html.unescape(re.findall(r'<p class="formula"><code>(.*?)</code>', section)[0])
        for name, section in _sections(text).items()
    }
    assert formulas["load"] == (
        "MaxVio = n * max(p) - 1; Gini = sum over i, j of |p_i - p_j| / (2 n); effective experts ="
        " exp(H(p)); p: the shares of the n experts of one parent; dead = experts with p = 0; no"
        " room = choices that no expert had room for / choices"
    )
    assert formulas["information"].startswith(
        "I(label; outer) + I(label; inner | outer) = I(label; leaf), a share of H(label); given the"
        " token: I(label; leaf | token), a share of H(label | token); "
    )


def test_sections_say_the_step_of_their_trace_once(text: str) -> None:
    said = {name: section.count("Trace of step 10.") for name, section in _sections(text).items()}
    of_training = ["loss", "load-over-steps", "dropped-over-steps", "end-of-training"]
    # Saturation is about all traces, and retention about none.
    others = ["saturation", "retention"]
    assert [name for name, count in said.items() if not count] == [*of_training, *others]
    assert set(said.values()) == {0, 1}
    assert "step 10" not in _sections(text)["load"].replace("Trace of step 10.", "")


def test_pictures_that_are_left_out_are_counted(tmp_path: Path) -> None:
    layers = tuple(f"encoder/block_{number:03d}/layer_001" for number in range(7))
    experts = np.random.default_rng(0).integers(0, 2, (4, 7, 3, 2))
    folder = made_runs.make(tmp_path / "run", made_runs.lines(3))
    made = made_traces.of_experts(experts, (2, 3), ["de", "el"] * 2, layers=layers)
    traces.write(str(folder / "trace-7.parquet"), made)
    text = Path(make.report(str(folder), print)).read_text(encoding="utf-8")
    section = _sections(text)["paths"]
    assert section.count("<img") == 4
    assert "2 of 6 pairs of layers have no picture here, but are in the table." in section
    assert "3 of 7 layers have no picture here, but are in the table." in _sections(text)["labels"]


def test_a_table_that_leaves_values_out_says_so(tmp_path: Path) -> None:
    folder = made_runs.make(tmp_path / "run", made_runs.lines(3))
    for number in (4, 5):
        labels = [f"l{example % number}" for example in range(20)]
        made = made_traces.of_experts(np.zeros((20, 1, 3, 2), int), (2, 3), labels)
        traces.write(str(folder / "trace-7.parquet"), made)
        text = Path(make.report(str(folder), print)).read_text(encoding="utf-8")
        said = ", with at most 4 values of a label, the most frequent first" * (number > 4)
        rows = tables_of(text)[f"{LAYERS[0]}: its experts{said}"]
        shares = [f"l{value} {1 / number:.0%}" for value in range(4)]
        assert rows[1][:3] == ["group 0", "100.0%", ", ".join(shares)]
        assert f"<figcaption>{LAYERS[0]}: language in each leaf</figcaption>" in text


@pytest.mark.parametrize(
    "numbers", [{}, {"experts/weighted_loss": 0.5}], ids=["dense", "metrics off"]
)
def test_only_a_run_with_expert_layers_is_told_to_be_traced(
    tmp_path: Path, numbers: dict[str, float]
) -> None:
    folder = made_runs.make(tmp_path / "run", [{**made_runs.line(5, loss=2.5), **numbers}])
    text = Path(make.report(str(folder), print)).read_text(encoding="utf-8")
    section = _sections(text)["learned"]
    assert ("This run has no expert layers." in section) == (not numbers)
    assert (f"<code>hmoe trace --model_dir={folder}</code>" in section) == bool(numbers)


def test_a_dense_run_beside_one_with_a_trace(run: Path, tmp_path: Path) -> None:
    dense = made_runs.make(tmp_path / "dense", [made_runs.line(5, loss=2.5)])
    page = make.report(str(run), print, against=str(dense), path=str(tmp_path / "a.html"))
    text = Path(page).read_text(encoding="utf-8")
    for name in ("load", "saturation", "sentence"):
        assert "This run has no expert layers." in _sections(text)[name]
    assert f"hmoe trace --model_dir={dense}" not in text


def test_a_run_without_a_trace_says_how_to_make_one(tmp_path: Path) -> None:
    folder = made_runs.make(tmp_path / "run", made_runs.lines(3))
    text = Path(make.report(str(folder), print)).read_text(encoding="utf-8")
    assert f"<code>hmoe trace --model_dir={folder}</code>" in text


def test_one_run_with_a_trace_and_one_without(run: Path, tmp_path: Path) -> None:
    other = made_runs.make(tmp_path / "other", made_runs.lines(3))
    page = make.report(str(run), print, against=str(other), path=str(tmp_path / "a.html"))
    text = Path(page).read_text(encoding="utf-8")
    assert f"<code>hmoe trace --model_dir={other}</code>" in text
    assert f"<code>hmoe ablate --model_dir={other}</code>" in text


@pytest.mark.slow
def test_a_large_report_stays_below_five_megabytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    layers = [f"encoder/block_{number:03d}/layer_001" for number in range(12)]
    experts = random.integers(0, 8, (48, len(layers), 16, 2))
    labels = [f"l{number % 24:02d}" for number in range(48)]
    tokens = random.integers(0, 300, (48, 16))
    lines = []
    for each in made_runs.lines(400):
        of_layers = {
            name.replace(made_runs.LAYER, layer): value * random.uniform(0.5, 1.5)
            for layer in layers
            for name, value in each.items()
            if made_runs.LAYER in name and not name[-1].isdigit()  # 8 experts, not 2 and 3
        }
        lines.append({"step": each["step"], "loss": each["loss"], **of_layers})
    folders = [made_runs.make(tmp_path / name, lines) for name in ("one", "two")]
    for folder in folders:
        made = made_traces.of_experts(experts, (8, 8), labels, tokens, layers)
        traces.write(str(folder / "trace-7.parquet"), made)
    page = make.report(str(folders[0]), print, against=str(folders[1]))
    assert Path(page).stat().st_size < 5_000_000
