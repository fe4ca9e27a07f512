"""All tolerances of the tests, with the reason for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

# A number computed in float32, against the oracle's in float64.
ORACLE = {"rtol": 2e-5, "atol": 2e-6}

# Two computations of the same number in float32, in another order.
SAME = {"rtol": 1e-5, "atol": 1e-6}

# A number computed in float32, against the one that another library computed in float32 on another
# machine, where terms that cancel were rounded differently.
PEERS = {"rtol": 1e-5, "atol": 1e-5}

# The promise for different meshes and layouts, and for weights after steps of an optimizer.
MESHES = {"rtol": 1e-5, "atol": 1e-5}

# A gradient computed in float32, against central differences of the float64 oracle.
DIFFERENCES = {"rtol": 2e-4, "atol": 2e-5}
DIFFERENCES_STEP = 1e-5

# Probabilities must differ by more than this for their order to be the same on all meshes.
TOP_K_MARGIN = 1e-3

# The same between float32 on one device and the oracle.
ORACLE_MARGIN = 1e-5

# A few operations on activations in bfloat16, which has 8 bits of mantissa.
BFLOAT16 = {"rtol": 3e-2, "atol": 3e-2}


def assert_close(
    actual: ArrayLike, expected: ArrayLike, tolerance: dict[str, float], what: str = ""
) -> None:
    """Compares in float64 by one of the tolerances above; a failure names `what`."""
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), np.asarray(expected, np.float64), err_msg=what, **tolerance
    )
