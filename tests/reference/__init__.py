"""The oracle: a hierarchical mixture of experts as plain loops over tokens, in float64.

Written from the documents, not from the package; it knows no meshes and no tensors.
A stream is the sequence of places that a level divides into groups: at the first
level one for each outer batch, further in one for each expert chosen above. A family
is the tuple of the experts chosen above, outermost first.

`specs` says what a level is, `gate` scores, `routing` chooses and places, `layer` is
the recursion, `losses` and `names` are what is told about it, `checks` keeps the
inputs of the tests hard enough and clear enough.
"""

from tests.reference.checks import assert_not_easy, dropped_choices, smallest_margin
from tests.reference.layer import Reference, Result, gating_name
from tests.reference.losses import balance_loss, second_place_loss, z_loss
from tests.reference.names import FULL_ONLY, final_names
from tests.reference.routing import Choice, Group, best_first, softmax
from tests.reference.specs import Family, GateSpec, LevelSpec

__all__ = [
    "FULL_ONLY",
    "Choice",
    "Family",
    "GateSpec",
    "Group",
    "LevelSpec",
    "Reference",
    "Result",
    "assert_not_easy",
    "balance_loss",
    "best_first",
    "dropped_choices",
    "final_names",
    "gating_name",
    "second_place_loss",
    "smallest_margin",
    "softmax",
    "z_loss",
]
