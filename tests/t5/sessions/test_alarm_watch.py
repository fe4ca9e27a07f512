"""When alarms are judged, and where they are kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import hmoe
from hmoe.t5.graphs.sums import SumKey
from hmoe.t5.sessions.alarm_watch import AlarmWatch
from hmoe.t5.sessions.session_settings import SessionSettings
from tests.layer.test_metrics import two_levels

LAYER = "encoder/block_000/layer_001"
TEXT = (
    "no token chose expert 0.1 in steps {}, counted before policy and capacity (idle experts in all: "
    "1 of 6)"
)
LINE = f"Alarm: {LAYER}, level inner: {TEXT}; raise hmoe.Level.balance_loss_coef of this level"

DROPPED = (
    f"Alarm: {LAYER}, level outer: 20.0 % of the layer's tokens were left behind because of this "
    "level in steps {}, which is above 15 %; raise hmoe.Level.capacity_factor_train of this level"
)


def kept(folder: Path) -> list[tuple[int, str, list]]:
    """The step, kind and experts of each line of the file."""
    lines = (folder / "alarms.jsonl").read_text().splitlines()
    return [(each["step"], each["kind"], each["experts"]) for each in map(json.loads, lines)]


def sums(*, idle: bool) -> dict[SumKey, np.ndarray]:
    """Of a step in which expert 1 of group 0 has no token, or one."""
    found: dict[SumKey, np.ndarray] = {("", "loss"): np.float32(1.0)}
    for name, value in two_levels().items():
        found[(LAYER, name)] = value.copy()
    found[(LAYER, "inner/load")][0, 1] = 0 if idle else 1
    return found


def watch(folder: Path, lines: list[str], **fields: object) -> AlarmWatch:
    return AlarmWatch(str(folder), SessionSettings(say=lines.append, **fields))


def test_an_alarm_is_judged_over_whole_windows_of_steps(tmp_path: Path) -> None:
    lines: list[str] = []
    watching = watch(tmp_path, lines, alarm_steps=3)
    # Idle in the steps 3 to 6: never in the first window, always in the second.
    for step, idle in enumerate([False, True, True, True, True, True, True], 1):
        watching.add(step, sums(idle=idle))
        assert bool(lines) == (step >= 6), step
    assert lines == [LINE.format("4 to 6")]
    (line,) = [json.loads(line) for line in (tmp_path / "alarms.jsonl").read_text().splitlines()]
    assert line.pop("time") > 0
    assert line == {
        "step": 6,
        "kind": "idle_experts",
        "layer": LAYER,
        "level": "inner",
        "experts": [[0, 1]],
        "value": 0.0,
        "limit": 0.0,
        "setting": "hmoe.Level.balance_loss_coef",
        "text": TEXT.format("4 to 6"),
    }


def test_a_loop_of_steps_may_be_longer_than_a_window(tmp_path: Path) -> None:
    lines: list[str] = []
    watch(tmp_path, lines, alarm_steps=3).add(50, sums(idle=True), num_steps=10)
    assert lines == [LINE.format("41 to 50")]


def test_alarms_can_be_switched_off(tmp_path: Path) -> None:
    lines: list[str] = []
    watching = watch(tmp_path, lines, alarm_steps=0)
    watching.add(1, sums(idle=True))
    assert (lines, list(tmp_path.iterdir())) == ([], [])


def test_steps_that_are_trained_again_lose_their_alarms(tmp_path: Path) -> None:
    lines: list[str] = []
    first = watch(tmp_path, lines, alarm_steps=2, alarm_dropped_above=0.15)
    first.add(2, sums(idle=False), num_steps=2)
    first.add(4, sums(idle=True), num_steps=2)
    assert len(lines) == 2
    second = watch(tmp_path, lines, alarm_steps=2, alarm_dropped_above=0.15)
    second.begin(3)
    second.add(5, sums(idle=True), num_steps=2)
    assert lines == [DROPPED.format("1 to 2"), LINE.format("3 to 4"), LINE.format("4 to 5")]
    assert kept(tmp_path) == [(2, "dropped_above", []), (5, "idle_experts", [[0, 1]])]


def test_a_resumed_run_gives_no_alarm_again_that_it_keeps(tmp_path: Path) -> None:
    lines: list[str] = []
    first = watch(tmp_path, lines, alarm_steps=2, alarm_dropped_above=0.15)
    first.add(2, sums(idle=True), num_steps=2)
    assert lines == [DROPPED.format("1 to 2"), LINE.format("1 to 2")]
    # Lines that are no alarms, as of another version, are left alone.
    others = ['{"step": 1, "kind": 3}', '{"step": 2, "experts": {}}', '{"step": 2}']
    others += ['{"step": 2, "kind": "a", "layer": "b", "level": "c", "experts": [[[]], 1, {}]}']
    with (tmp_path / "alarms.jsonl").open("a") as file:
        file.writelines(f"{line}\n" for line in others)
    second = watch(tmp_path, lines, alarm_steps=2, alarm_dropped_above=0.15)
    second.begin(2)
    second.add(4, sums(idle=True), num_steps=2)
    assert len(lines) == 2
    # Another expert is news.
    found = sums(idle=True)
    found[(LAYER, "inner/load")][1, 2] = 0
    second.add(6, found, num_steps=2)
    assert lines[2:] == [
        f"Alarm: {LAYER}, level inner: no token chose expert 1.2 in steps 5 to 6, counted before "
        "policy and capacity (idle experts in all: 2 of 6); raise hmoe.Level.balance_loss_coef of "
        "this level"
    ]


def test_entropies_that_are_not_measured_are_bounded_by_weights(tmp_path: Path) -> None:
    lines: list[str] = []
    settings = SessionSettings(say=lines.append, alarm_steps=1)
    found = sums(idle=False)
    for level in ("outer", "inner"):
        found[(LAYER, f"{level}/tokens")] = found[(LAYER, f"{level}/tokens")][..., :6]
    # All weight of 8 tokens with a slot, 2 of them partial, is that of their first choices.
    found[(LAYER, "outer/tokens")][[3, 5]] = 8
    AlarmWatch(str(tmp_path / "without"), settings).add(1, found)
    assert lines == []
    AlarmWatch(str(tmp_path), settings, {LAYER: {"outer": hmoe.SwitchRouter()}}).add(1, found)
    assert lines == [
        f"Alarm: {LAYER}, level outer: the entropy of the router for tokens with a slot is at most "
        "0 nats in step 1, at most 0 % of that of an undecided one, which is below 1 %; raise "
        "hmoe.Level.z_loss_coef of this level"
    ]


def test_a_dense_model_gives_none(tmp_path: Path) -> None:
    lines: list[str] = []
    watch(tmp_path, lines, alarm_steps=1).add(1, {("", "loss"): np.float32(1.0)})
    assert lines == []
