"""Where the gin files that come with the package are.

In a checkout they stand at the top of the repository, in `gin/`; an installed wheel carries the
same folder as `hmoe/gin/`.
"""

from __future__ import annotations

import os

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def folder() -> str:
    """Returns the absolute path of the folder with `models/`, `layouts/`, `tasks/`, `runs/`.

    Raises:
        FileNotFoundError: the package was installed without its gin files.
    """
    installed = os.path.join(_PACKAGE, "gin")
    checkout = os.path.join(os.path.dirname(_PACKAGE), "gin")
    for candidate in (installed, checkout):
        # A `gin` beside an installed package is gin-config's, which has no such folder.
        if os.path.isdir(os.path.join(candidate, "models")):
            return candidate
    raise FileNotFoundError(
        f"the gin files of hmoe are neither in {installed} (an installed package) nor in "
        f"{checkout} (a checkout); install hmoe again"
    )
