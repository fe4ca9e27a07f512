"""Stands in for `hmoe` as a process of a run: the launcher knows nothing of TensorFlow.

It takes the flags of a process, waits for the others, and does what the environment's STAND_IN says:
a JSON object with a list of actions for the number of a process, one for each start. Like hmoe it
notices a process that is gone or stopped (after --lost_after), says so and ends with 3, and saves
and stops at SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import sys
import time

LOOK = 0.02


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--workers")
    parser.add_argument("--worker_index", type=int)
    parser.add_argument("--lost_after", type=float, default=0.3)
    parser.add_argument("--model_dir", type=pathlib.Path)
    flags, _ = parser.parse_known_args()
    number, folder = flags.worker_index, flags.model_dir
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"starts_{number}").open("a") as file:
        file.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\n")
    start = len((folder / f"starts_{number}").read_text().splitlines()) - 1
    if number:
        (folder / f"process_{number}.log").write_text("log\n")
    actions = json.loads(os.environ.get("STAND_IN", "{}")).get(str(number), ["done"])
    action = actions[min(start, len(actions) - 1)]

    def stop(*_: object) -> None:
        (folder / f"stopped_{number}").touch()
        print("Ended by SIGTERM.", file=sys.stderr, flush=True)
        os._exit(143)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if action == "deaf" else stop)
    ports = flags.workers.split(",")
    name = f"{ports[0].rsplit(':', 1)[1]}_{{}}"  # of this start: ports are new each time
    (folder / name.format(number)).write_text(str(os.getpid()))
    pids = folder / name.format("all")
    while sum(1 for i in range(len(ports)) if (folder / name.format(i)).exists()) < len(ports):
        time.sleep(LOOK)
    time.sleep(0.1)
    pids = [int((folder / name.format(i)).read_text()) for i in range(len(ports))]
    act(action, number, folder)
    watch(action, number, pids, folder, flags.lost_after)


def act(action: str, number: int, folder: pathlib.Path) -> None:
    """Does what happens once, when all processes are there."""
    print(f"line of {number}", flush=True)
    if action.startswith("exit "):
        print(f"error of {number}", file=sys.stderr, flush=True)
        os._exit(int(action.split()[1]))
    if action == "save and kill":
        (folder / "model.ckpt-5.index").write_text("new")
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)


def watch(
    action: str, number: int, pids: list[int], folder: pathlib.Path, lost_after: float
) -> None:
    """Waits: to be done for "done", and for ever for "work" and "deaf"."""
    begun = time.monotonic()
    while True:
        if action == "done" and time.monotonic() - begun > 3 * lost_after:
            os._exit(0)
        for other, pid in enumerate(pids):
            if action != "deaf" and state(pid) in ("", "Z", "T"):
                time.sleep(lost_after)
                if action == "done" and state(pid) == "":
                    continue  # it may be done
                print(f"process {other} was lost", file=sys.stderr, flush=True)
                os._exit(3)
        time.sleep(LOOK)


def state(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


if __name__ == "__main__":
    main()
