"""What is reported of the progress of training, apart from how it is shown; and as a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from hmoe.layer.level_states import LevelState
from hmoe.startup.console import duration
from hmoe.t5.sessions import run_metrics

LEFT_BEHIND = "experts/fraction_tokens_left_behind"
IMBALANCE = "experts/load_imbalance"


@dataclasses.dataclass(frozen=True)
class ProgressReport:
    """The numbers of the steps since the last report.

    Attributes:
      step: number of steps that are done.
      max_steps: the step that training stops at.
      numbers: metrics by name.
      levels: how the levels of all expert layers stand; empty without metrics of experts.
    """

    step: int
    max_steps: int
    numbers: Mapping[str, float]
    levels: Sequence[LevelState] = ()

    def time_left(self, step: int) -> str | None:
        """Returns the time that is left after a step, in words; None before speed was measured."""
        steps_per_second = self.numbers.get(run_metrics.STEPS_PER_SECOND.name)
        if steps_per_second is None:
            return None
        return duration((self.max_steps - step) / steps_per_second)


def progress_line(report: ProgressReport) -> str:
    """Returns a line such as `step 100 of 600 | loss 1.23 | ... | 2 min 10 s left`."""
    numbers, max_steps = report.numbers, report.max_steps
    parts = [f"step {report.step:>{len(str(max_steps))}} of {max_steps}"]
    for metric in (run_metrics.LOSS, run_metrics.CROSS_ENT_LOSS):
        parts.append(f"{metric.name} {numbers[metric.name]:.4f}")
    left_behind = numbers.get(LEFT_BEHIND)
    if left_behind is not None:
        parts.append(f"left behind {100 * left_behind:.1f} %")
        parts.append(f"imbalance {numbers[IMBALANCE]:.2f}")
    time_left = report.time_left(report.step)
    if time_left is not None:
        parts.append(f"{numbers[run_metrics.TOKENS_PER_SECOND.name]:,.0f} tokens/s")
        parts.append(f"{time_left} left")
    return " | ".join(parts)
