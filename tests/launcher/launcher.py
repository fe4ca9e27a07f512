"""Runs the launcher with stand-ins for `hmoe`; its arguments are a JSON object."""

from __future__ import annotations

import json
import pathlib
import sys

from hmoe.launcher import attempts
from hmoe.launcher.attempts import Launch
from hmoe.launcher.processes import Processes
from hmoe.launcher.watch import Patience
from hmoe.startup.signals import Guard

STAND_IN = str(pathlib.Path(__file__).with_name("stand_in.py"))


def main() -> int:
    given = json.loads(sys.argv[1])
    launch = Launch(
        processes=Processes(
            per_host=given["n"], gpus=tuple(given.get("gpus", ())), given="-n is so"
        ),
        program=(sys.executable, *given.get("program", [STAND_IN])),
        command=("train", f"--model_dir={given['folder']}", *given.get("words", ())),
        model_dir=given["folder"],
        restarts=given.get("restarts", 0),
        pause=given.get("pause", 0.0),
        overwrites="--overwrite" in given.get("words", ()),
        patience=Patience(notice=given.get("notice", 3), end=given.get("end", 1)),
    )
    with Guard() as guard:
        return attempts.run(
            launch,
            guard,
            lambda line: print(line, flush=True),
            lambda line: print(line, file=sys.stderr, flush=True),
        )


if __name__ == "__main__":
    sys.exit(main())
