"""Watches the experts of a run: alarms for the user, and lines of `alarms.jsonl`."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping

import numpy as np

from hmoe.layer.level_states import Routers, level_states
from hmoe.startup.saved_run import ALARMS_FILE
from hmoe.t5.graphs.sums import SumKey
from hmoe.t5.sessions import expert_alarms, metrics_file, run_metrics
from hmoe.t5.sessions.session_settings import SessionSettings


class AlarmWatch:
    """Judges the sums of every `alarm_steps` steps, and gives each alarm once.

    A session that resumes a run counts steps anew, but gives no alarm again that the run has in its
    file.

    Args:
      model_dir: folder of the run.
      session: the limits, and prints lines for the user.
      routers: those of the model, for bounds on entropies that are not measured.
    """

    def __init__(self, model_dir: str, session: SessionSettings, routers: Routers | None = None):
        self._path = os.path.join(model_dir, ALARMS_FILE)
        self._session = session
        self._routers = routers
        self._limits = session.alarm_limits()
        self._once = expert_alarms.Once()
        self._window = run_metrics.SumCollector()

    def begin(self, last_step: int) -> None:
        """Takes up the alarms of the run up to `last_step`, and removes those of later steps.

        Later steps are about to be trained again.
        """
        metrics_file.keep_lines(self._path, lambda step: step <= last_step, self._session.say)
        for fields in metrics_file.read_lines(self._path):
            self._once.remember(fields)

    def add(self, step: int, sums: Mapping[SumKey, np.ndarray], num_steps: int = 1) -> None:
        """Adds the sums of steps, and gives alarms if there are enough of them.

        Args:
          step: the number of steps that are done, these among them.
          sums: the totals of the steps.
          num_steps: the number of steps.
        """
        if not self._session.alarm_steps:
            return
        self._window.add({key: value for key, value in sums.items() if key[0]}, num_steps)
        if self._window.count >= self._session.alarm_steps:
            window, self._window = self._window, run_metrics.SumCollector()
            self._judge(step, window)

    def _judge(self, step: int, window: run_metrics.SumCollector) -> None:
        states = level_states(run_metrics.sums_by_layer(window.sums), self._routers)
        first = step - window.count + 1
        for alarm in expert_alarms.find(states, self._limits, self._once, first, step):
            self._session.say(alarm.line)
            fields = {"step": step, "time": round(time.time(), 3), **dataclasses.asdict(alarm)}
            metrics_file.append_text(self._path, json.dumps(fields))
