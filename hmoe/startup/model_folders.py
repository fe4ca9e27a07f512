"""Which folder of a trained model may have been meant by a name that holds none."""

from __future__ import annotations

import os

from hmoe.startup import new_run
from hmoe.storage import checkpoint_files
from hmoe.storage.local_files import is_elsewhere


def meant(model_dir: str) -> str | None:
    """Returns a phrase that names another folder, or None if there is none like it."""
    if is_elsewhere(model_dir):
        return None
    folder, name = os.path.split(os.path.normpath(model_dir))
    steps = checkpoint_files.saved_steps(folder or os.curdir)
    if name in [os.path.basename(checkpoint_files.prefix("", step)) for step in steps]:
        return f"it is a checkpoint: give its folder, --model_dir={folder or os.curdir}"
    similar = new_run.similar_run(model_dir)
    return f"did you mean {similar!r}?" if similar else None
