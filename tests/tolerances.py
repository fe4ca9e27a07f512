"""Every tolerance of the tests, in one place, with the reason for each."""

from __future__ import annotations

import numpy as np

# A number computed in float32 against the same one from the oracle in float64.
ORACLE = {"rtol": 2e-5, "atol": 2e-6}

# Two computations in float32 of the same thing in another order.
SAME = {"rtol": 1e-5, "atol": 1e-6}

# A number in float32 against the one that another library gave, in float32, on another
# machine, where terms that cancel were rounded otherwise.
PEERS = {"rtol": 1e-5, "atol": 1e-5}

# What decisions promise between meshes, and after steps of an optimizer.
MESHES = {"rtol": 1e-5, "atol": 1e-5}

# A gradient in float32 against central differences of the float64 oracle.
DIFFERENCES = {"rtol": 2e-4, "atol": 2e-5}
DIFFERENCES_STEP = 1e-5

# Nearest probabilities that may still count as in another order on all meshes.
TOP_K_MARGIN = 1e-3

# The same where float32 meets the oracle on one device.
ORACLE_MARGIN = 1e-5

# Activations in bfloat16: 8 bits of mantissa, a few operations.
BFLOAT16 = {"rtol": 3e-2, "atol": 3e-2}


def assert_close(actual, expected, tolerance, what=""):
    """numpy's assertion with one of the tolerances above."""
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), np.asarray(expected, np.float64), err_msg=what, **tolerance
    )
