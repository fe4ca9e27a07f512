"""The tables of a plan that was made by hand: the whole text."""

from __future__ import annotations

import dataclasses

import pytest

from hmoe.plan import report, time_model
from hmoe.plan.costs import Memory, StepCosts
from tests.plan.plans import HARDWARE, PLAN

TEXT = """\
Devices: 6 (CPUs or GPUs)
Mesh: cols 2, rows 3
Layout: batch over cols, expert_x over cols, expert_y over rows, outer_batch over rows
Step: 1,230 tokens in 1 microbatch
Parameters: 13.1 M, of which a token uses at most 2.86 M

All that follows is for one device and one training step.
Multiplications

  part       forward   backward   update      all   share
 ─────────────────────────────────────────────────────────
  experts      600 M     1.20 G        0   1.80 G   90.0%
  router      1.50 M     2.50 M        0   4.00 M    0.2%
  all else     195 M          0      999    195 M    9.8%
  all          796 M     1.20 G      999   2.00 G

Bytes sent to other devices

  over                  kind                of   forward   backward   update       all   number
 ───────────────────────────────────────────────────────────────────────────────────────────────
  cols            all-to-all   dispatch, outer   30.0 kB    20.0 kB            50.0 kB        4

  rows            all-to-all   dispatch, inner   7.00 kB                       7.00 kB        3

  cols and rows   all-reduce          all else               900 kB             900 kB        5

  all                                            37.0 kB     920 kB             957 kB       12

Memory

  what                                                  size     share
 ──────────────────────────────────────────────────────────────────────
  parameters                                         4.00 MB     20.0%
  gradients                                          3.00 MB     15.0%
  optimizer                                          50.0 kB      0.2%
  activations, at most, kept for the backward pass   12.9 MB     64.8%
  all                                                20.0 MB
  box has                                            32.0 MB   it fits

Mixture layer decoder/block_000/layer_002 and 1 like it

  level   experts   split over   groups   tokens of each   capacity   slots a token
 ───────────────────────────────────────────────────────────────────────────────────
  outer         4       cols 2        6               15          7            1.87
  inner         6       rows 3       12               14          2            0.86

  24 experts with 576 slots, 6.40 for each of 90 tokens; at least 53% stay empty.

Modelled time on box

  what                           hosts      time   operations a byte   needed
 ─────────────────────────────────────────────────────────────────────────────
  experts                                 900 µs
  router                                 2.00 µs
  all else                               97.5 µs
  exchanges over cols                2    500 µs              80.0 k   40.0 k
  exchanges over rows                1   7.00 µs               571 k    4,000
  exchanges over cols and rows       2   9.00 ms               4,442   40.0 k

A step: 9.51 ms if exchanges and multiplications overlap, 10.5 ms if nothing does; bound by
exchanges over cols and rows.
Figures: made up.
A model: it leaves out the time that a message takes however short it is; reading and writing
memory, and all that is no product of matrices; how far products of small or odd matrices stay below
the peak; what else uses the links of an axis at the same time, and detours in a torus; the host:
reading data, starting programs, saving.

- Something is wasted.
"""


def test_all_tables() -> None:
    found = report.report(PLAN, time_model.step_time(PLAN, HARDWARE))
    assert found == TEXT.rstrip("\n")
    assert max(map(len, found.splitlines())) <= 100


def test_without_hardware() -> None:
    found = report.report(PLAN)
    assert "Modelled time" not in found
    assert "box" not in found
    assert found.startswith(TEXT[:300])


def test_one_device_sends_nothing() -> None:
    alone = dataclasses.replace(
        PLAN, mesh={}, layout={}, layers=(), costs=StepCosts({}, ()), microbatches=2, on_tpu=True
    )
    found = report.report(alone)
    assert "Devices: 1 (TPU cores)\nMesh: none\nLayout: none\n" in found
    assert "in 2 microbatches" in found
    assert "\nA device sends nothing to others.\n" in found


def test_what_does_not_fit() -> None:
    large = dataclasses.replace(PLAN, memory=Memory(33_000_000, 0, 0, 0))
    found = report.report(large, time_model.step_time(large, HARDWARE))
    assert (
        "  box has                                            32.0 MB   it does not fit\n" in found
    )


def test_styles_are_for_terminals() -> None:
    assert "\x1b[" in report.report(PLAN, styled=True)
    assert "\x1b[" not in report.report(PLAN)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (9_999, "9,999"),
        (10_000, "10.0 k"),
        (999_499, "999 k"),
        (999_600, "1.00 M"),
        (57_700_000, "57.7 M"),
        (3.87e12, "3.87 T"),
        (2e21, "2000 E"),
    ],
)
def test_counts(number: float, text: str) -> None:
    assert report.count(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (14.6e9, "14.6 GB")]
)
def test_sizes(number: float, text: str) -> None:
    assert report.size(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (12.34, "12.3 s"),
        (0.5, "500 ms"),
        (4.56e-3, "4.56 ms"),
        (7e-6, "7.00 µs"),
        (2e-9, "2.00 ns"),
    ],
)
def test_times(number: float, text: str) -> None:
    assert report.seconds(number) == text
