"""Where the time of a step goes: `.venv/bin/python -m benchmarks.trace [--group 1024]`.

Time of TensorFlow's operations by kind, in the layer at two levels and in its experts' multiplies
alone. Operations that run at the same time count each for itself, so that the sums are above the
time of a step; a trace itself costs some percent.
"""

from __future__ import annotations

import argparse
import collections
import statistics

from benchmarks.sides.layers import Ours
from benchmarks.sides.multiplies import Bare
from benchmarks.sides.sessions import InSession

WARM_UP = 3


def main() -> None:
    """Prints a table for each side."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace", description=__doc__)
    parser.add_argument("--group", type=int, default=1024, help="tokens (default: 1024)")
    parser.add_argument("--steps", type=int, default=7, help="to average over (default: 7)")
    flags = parser.parse_args()
    for name, side in (("hmoe", Ours(group=flags.group)), ("bare multiplies", Bare())):
        for _ in range(WARM_UP):
            side.step()
        seconds = statistics.median(side.step() for _ in range(flags.steps))
        milliseconds, number = traced(side, flags.steps)
        print(
            f"\n{name}: {1000 * seconds:.0f} ms a step, operations"
            f" {sum(milliseconds.values()):.0f} ms"
        )
        for kind, each in milliseconds.most_common():
            if each >= 0.5:
                print(f"{each:9.1f} ms  {number[kind] / flags.steps:4.0f} x {kind}")


def traced(side: InSession, steps: int) -> tuple[collections.Counter, collections.Counter]:
    """Milliseconds a step, and the number in all steps, of operations by kind."""
    milliseconds: collections.Counter = collections.Counter()
    number: collections.Counter = collections.Counter()
    for _ in range(steps):
        for device in side.trace().step_stats.dev_stats:
            for node in device.node_stats:
                # "name = Kind(input, ...)"
                kind = node.timeline_label.split(" = ")[-1].split("(")[0]
                micros = node.op_end_rel_micros - node.op_start_rel_micros
                milliseconds[kind] += micros / steps / 1000
                number[kind] += 1
    return milliseconds, number


if __name__ == "__main__":
    main()
