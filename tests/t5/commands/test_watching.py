"""Watching `hmoe train`: a table on a terminal, lines elsewhere, alarms, curves of experts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hmoe.compat.stack import tf
from tests.screen import Screen
from tests.t5 import server
from tests.t5.commands.test_commands import PARAMETERS
from tests.t5.terminal import CTRL_C, Terminal

pytestmark = pytest.mark.slow

ENCODER, DECODER = "encoder/block_000/layer_001", "decoder/block_000/layer_002"
# With the training that follows it: reports at 2, 4, ..., checkpoints at 4, 8, 12.
MORE = ("train_steps = 12", "save_every_steps = 4")
# Room for one token of each group, and a router that hardly hesitates, so that there are alarms.
BAD = (
    "hmoe.Session.alarm_steps = 4",
    "inner/hmoe.Level.capacity_factor_train = 0.01",
    "inner/hmoe.Level.min_capacity = 1",
    "outer/hmoe.TopKRouter.k = 1",
    'hmoe.HierarchicalMoE.metrics = "full"',
    "hmoe.Session.alarm_entropy_below = 1.0",
    "hmoe.Session.alarm_group_below = 1.0",
    "hmoe.Session.alarm_group_above = 1.0",
)
LINE = re.compile(
    r"step +(\d+) of 12 \| loss \d+\.\d{4} \| cross_ent_loss \d+\.\d{4} \| left behind \d+\.\d % "
    r"\| imbalance \d\.\d\d \| [\d,]+ tokens/s \| \d+ s left"
)


@pytest.fixture(scope="module", params=["color", "no_color"])
def colors(request: pytest.FixtureRequest) -> bool:
    return request.param == "color"


@pytest.fixture(scope="module")
def on_terminals(colors: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Server]:
    """Runs commands where `NO_COLOR` is empty, which counts as unset, or is set."""
    variables = {"TERM": "xterm-256color", "NO_COLOR": "" if colors else "1"}
    running = server.Server(tmp_path_factory.mktemp("server"), **variables)
    yield running
    running.close()


def arguments(folder: Path, *parameters: str) -> list[str]:
    return [
        "train",
        "--gin_file=runs/tiny.gin",
        "--noevaluate",
        f"--model_dir={folder}",
        *[f"--gin_param={p}" for p in (*PARAMETERS, *MORE, *parameters)],
    ]


def test_table_on_a_terminal(on_terminals: server.Server, colors: bool, tmp_path: Path) -> None:
    terminal = Terminal(
        lambda path: on_terminals.run_on([path] * 3, *arguments(tmp_path / "model"))
    )
    seen = terminal.end()
    assert terminal.status == 0, seen
    screen = Screen(seen)
    assert screen.shows_cursor
    assert bool(screen.colors) == colors
    lines = screen.text.splitlines()
    bar = lines.index(next(line for line in lines if line.startswith("step ")))
    # What was said during training stands above the table, and what came after it below.
    model = tmp_path / "model"
    assert lines[bar - 3 : bar] == [f"Saved {model}/model.ckpt-{step}" for step in (4, 8, 12)]
    assert re.fullmatch(r"step 12 of 12 ━+ 100 %, 0 s left", lines[bar])
    assert re.fullmatch(
        r"loss [\d.]+   cross entropy [\d.]+   left behind [\d.]+ %   tokens/s [\d,]+",
        lines[bar + 1],
    )
    assert lines[bar + 2] == "level   dropped   imbalance   worst   the worst is at"
    outer, inner = lines[bar + 4 : bar + 6]
    for level, line in (("outer", outer), ("inner", inner)):
        assert re.fullmatch(rf"{level} +[\d.]+ % +[\d.]+ +[\d.]+   ({ENCODER}|{DECODER})", line)
    assert lines[bar + 7].startswith("Checkpoint ")
    # The lines that the table replaces are in the log.
    log = (model / "log.txt").read_text(encoding="utf-8")
    assert [int(step) for step in LINE.findall(log)] == [2, 4, 6, 8, 10, 12]


def interrupted(running: server.Server, model: Path, times: int) -> Screen:
    """The terminal after Ctrl-C was pressed while the table was there."""
    terminal = Terminal(
        lambda path: running.run_on(
            [path] * 3, *arguments(model, "train_steps = 100_000", "save_every_steps = 50_000")
        )
    )
    seen = terminal.read_until("the worst is at")
    terminal.type(CTRL_C)
    seen += terminal.read_until("Stopping after this step")
    if times == 2:
        terminal.type(CTRL_C)
    screen = Screen((seen + terminal.end()).replace("^C", ""))
    assert (terminal.status, screen.shows_cursor) == (130, True)
    assert screen.text.splitlines()[-1] == "Interrupted."
    return screen


def test_ctrl_c_leaves_the_terminal_in_order(on_terminals: server.Server, tmp_path: Path) -> None:
    lines = interrupted(on_terminals, tmp_path / "model", 1).text.splitlines()
    saved = next(line for line in lines if line.startswith("Saved "))
    stopping = "Stopping after this step and saving; press Ctrl-C again to stop at once"
    bar = next(i for i, line in enumerate(lines) if line.startswith("step "))
    assert lines[bar - 2 : bar] == [stopping, saved]
    assert lines[bar - 3].startswith("First step done ")
    assert lines[-2] == (
        f"Stopped; the last checkpoint is {saved.removeprefix('Saved ')}. "
        "To resume, run the same command again"
    )


def test_ctrl_c_twice_leaves_the_terminal_in_order(
    on_terminals: server.Server, tmp_path: Path
) -> None:
    """Whether the checkpoint is still saved or not."""
    lines = interrupted(on_terminals, tmp_path / "model", 2).text.splitlines()
    bar = next(i for i, line in enumerate(lines) if line.startswith("step "))
    above = [line for line in lines[:bar] if not line.startswith("Saved ")]
    assert above[-1].startswith("Stopping after this step")
    assert above[-2].startswith("First step done ")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Server]:
    """Runs commands where terminals cannot move their cursor."""
    running = server.Server(tmp_path_factory.mktemp("server"), TERM="dumb")
    yield running
    running.close()


def test_lines_on_a_terminal_that_cannot_move_its_cursor(
    plain: server.Server, tmp_path: Path
) -> None:
    terminal = Terminal(lambda path: plain.run_on([path] * 3, *arguments(tmp_path / "model")))
    seen = terminal.end()
    assert_plain(seen.replace("\r\n", "\n"), tmp_path / "model")


def assert_plain(text: str, model: Path) -> None:
    assert "\x1b" not in text
    lines = text.splitlines()
    steps = [LINE.fullmatch(line) for line in lines if line.startswith("step ")]
    assert [each and int(each[1]) for each in steps] == [2, 4, 6, 8, 10, 12]
    assert lines.index(f"Saved {model}/model.ckpt-4") == 1 + lines.index(steps[1][0])
    assert "━" not in text


@pytest.fixture(scope="module")
def piped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run into pipes, with alarms."""
    model = tmp_path_factory.mktemp("piped") / "model"
    result = server.once(*arguments(model, *BAD))
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return model, result.stdout


def test_lines_in_a_pipe(piped: tuple[Path, str]) -> None:
    model, said = piped
    assert_plain(said, model)


def test_alarms_come_once_in_words_and_are_kept(piped: tuple[Path, str]) -> None:
    model, said = piped
    alarms = [line for line in said.splitlines() if line.startswith("Alarm: ")]
    assert len(alarms) == len(set(alarms)) > 0
    kept = [json.loads(line) for line in (model / "alarms.jsonl").open(encoding="utf-8")]
    assert alarms == [
        f"Alarm: {each['layer']}, level {each['level']}: {each['text']}; "
        f"raise {each['setting']} of this level"
        for each in kept
    ]
    places = [(each["kind"], each["layer"], each["level"], str(each["experts"])) for each in kept]
    assert len(places) == len(set(places))
    by_kind = {each["kind"]: each for each in kept}
    assert by_kind.keys() >= {"dropped_above", "group_below", "group_above", "entropy_below"}
    dropped = by_kind["dropped_above"]
    assert (dropped["level"], dropped["step"]) == ("inner", 4)
    assert dropped["text"].endswith(
        " % of the layer's tokens were left behind because of this level in steps 1 to 4, which is "
        "above 25 %"
    )
    # The share is that of the curves, over steps of about the same number of tokens.
    shares = [
        line[f"{dropped['layer']}/inner/fraction_tokens_dropped"]
        for line in map(json.loads, (model / "metrics.jsonl").open(encoding="utf-8"))
        if line["step"] in (2, 4)
    ]
    assert min(shares) <= dropped["value"] <= max(shares)


def test_a_run_without_alarms_has_no_file_of_them(plain: server.Server, tmp_path: Path) -> None:
    model = tmp_path / "model"
    result = plain(*arguments(model, *BAD, "hmoe.Session.alarm_steps = 0"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Alarm: " not in result.stdout
    assert not (model / "alarms.jsonl").exists()


def test_alarms_of_idle_experts_and_of_entropies(plain: server.Server, tmp_path: Path) -> None:
    """Of 2 x 64 experts, some of which the few tokens of the first step do not choose.

    The likelier of two groups has more than half the probability, which is entropy enough below
    that of an undecided router for such a limit. With brief metrics it is bounded by weights.
    """
    more = (
        "num_inner_experts = 64",
        "train_steps = 1",
        "hmoe.Session.log_every_steps = 1",
        "outer/hmoe.TopKRouter.k = 1",
        "hmoe.Session.alarm_entropy_below = 1.0",
    )
    model = tmp_path / "model"
    result = plain(*arguments(model, *more, "hmoe.Session.alarm_steps = 1"))
    assert result.returncode == 0, result.stdout + result.stderr
    alarms = [json.loads(line) for line in (model / "alarms.jsonl").open(encoding="utf-8")]
    (curves,) = [json.loads(line) for line in (model / "metrics.jsonl").open(encoding="utf-8")]
    for layer in (ENCODER, DECODER):
        (alarm,) = [
            each for each in alarms if (each["kind"], each["layer"]) == ("idle_experts", layer)
        ]
        (bound,) = [
            each
            for each in alarms
            if (each["kind"], each["layer"], each["level"]) == ("entropy_below", layer, "outer")
        ]
        assert bound["text"].startswith(
            "the entropy of the router for tokens with a slot is at most 0."
        )
        dead = curves[f"{layer}/inner/dead_experts"]
        assert len(alarm["experts"]) == dead > 0
        assert alarm["level"] == "inner"
        assert alarm["text"].endswith(
            " in step 1, counted before policy and capacity (idle experts in all: "
            f"{dead:.0f} of 128)"
        )
        assert f"level inner: {alarm['text']}; raise hmoe.Level." in result.stdout


def test_tensorboard_has_histograms_and_percentiles(piped: tuple[Path, str]) -> None:
    model, _ = piped
    (file,) = model.glob("events.out.tfevents.*")
    histograms: dict[str, list] = {}
    scalars: dict[tuple[str, int], float] = {}
    for event in tf.train.summary_iterator(str(file)):
        for value in event.summary.value:
            if value.HasField("histo"):
                histograms.setdefault(value.tag, []).append((event.step, value.histo))
            else:
                scalars[value.tag, event.step] = value.simple_value
    assert histograms.keys() == {
        f"{layer}/{level}/relative_load"
        for layer in (ENCODER, DECODER)
        for level in ("outer", "inner")
    }
    for tag, found in histograms.items():
        assert [step for step, _ in found] == [2, 4, 6, 8, 10, 12], tag
        for step, histogram in found:
            # The mean over the experts is 1; the highest is the imbalance of a single set.
            assert histogram.num == (2 if "/outer/" in tag else 4)
            assert histogram.sum == pytest.approx(histogram.num)
            assert sum(histogram.bucket) == histogram.num
            if "/outer/" in tag:
                imbalance = scalars[tag.replace("relative_load", "load_imbalance"), step]
                assert histogram.max == pytest.approx(imbalance)
    for level in ("outer", "inner"):
        for metric in ("load_imbalance", "fraction_tokens_dropped"):
            of_layers = [scalars[f"{layer}/{level}/{metric}", 12] for layer in (ENCODER, DECODER)]
            ends = [scalars[f"percentiles/{level}/{metric}/{end}", 12] for end in ("min", "max")]
            assert ends == pytest.approx(sorted(of_layers))
            median = scalars[f"percentiles/{level}/{metric}/p50", 12]
            assert median == pytest.approx(sum(of_layers) / 2)
