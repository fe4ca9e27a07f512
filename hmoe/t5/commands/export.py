"""`hmoe export`: writes a SavedModel for serving."""

from __future__ import annotations

import os

from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import configure, gin_config
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.sessions import checkpoints


def export(request: Request, console: Console) -> None:
    """Writes a SavedModel of the newest checkpoint."""
    checkpoints.require_latest(request.model_dir, console.say)
    request = configure.configure_trained(request, console)
    folder = request.export_dir or gin_config.bound("run.export_path")
    folder = folder or os.path.join(request.model_dir, "export")
    run = T5Run(
        mode=configure.mode_of("export"),
        model_dir=request.model_dir,
        say=console.say,
        machine=request.machine,
        arguments={"export_path": folder},
    )
    checkpoints.again_if_removed(run.start, console.say)
    if request.machine.tpu:  # elsewhere the estimator prints it
        console.say(f"Wrote the model to {folder}/<time>")
