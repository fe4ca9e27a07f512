"""All checks of a request that are made before TensorFlow is imported, which takes seconds.

Only what is certain is an error; what lies on other machines ("gs://...") is left to the commands.
"""

from __future__ import annotations

from hmoe.startup import configuration, flag_checks, path_checks, worker_checks
from hmoe.startup.data_files import check as data_check
from hmoe.startup.request import Request


def check(request: Request) -> list[str]:
    """Checks flags, files, data and configuration of a request.

    Returns:
      Sentences about what has no effect, to warn of.

    Raises:
      ValueError: the command cannot do what the request asks for.
    """
    flag_checks.check(request)
    worker_checks.check(request)
    path_checks.check(request)
    warnings = configuration.check(request) + data_check.check(request)
    # Last, since it reads the whole of a checkpoint, which may be large.
    path_checks.check_some_whole(request)
    if request.workers:
        warnings += worker_checks.check_port(request.workers)
    return warnings
