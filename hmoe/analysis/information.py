"""How much the experts of each level know of an example's label.

By the chain rule, I(label; outer) + I(label; inner | outer) = I(label; leaf). All are over choices:
a token that two leaves process counts twice. Choices of examples without a label are left out.

Information that is estimated from counts is too large, the more so as the choices of one example
are alike. So each part is corrected by the mean that it has when labels are permuted by example
(Optican, Gawne, Richmond and Joseph 1991, "Unbiased measures of transmitted information and channel
capacity from multivariate neuronal data", Biol. Cybern. 65). The correction of Miller and Madow
would take choices for independent, and be too small. This one is somewhat too large where labels
nearly decide the expert, since permuted labels meet more experts than those labels ever do
(Panzeri, Senatore, Montemurro and Petersen 2007, "Correcting for the sampling bias problem in spike
train information measures", J. Neurophysiol. 98): shares close to 1 are a little too small.

For information that is conditional on a group or a token, labels are permuted among the examples
that came to that group or have that token. Permuted over all examples they would be more varied
there than they ever are, and the correction far too large. For this, see `permutations`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from hmoe.analysis import permutations
from hmoe.analysis.routed import Routed, routed
from hmoe.analysis.traces import Trace


@dataclasses.dataclass(frozen=True)
class Information:
    """Information in bits, and what it is by chance.

    Attributes:
      bits: the plug-in estimate.
      null: float64 [permutations], the estimates with permuted labels.
    """

    bits: float
    null: np.ndarray

    @property
    def mean(self) -> float:
        """The mean of the null."""
        return float(self.null.mean())

    @property
    def deviation(self) -> float:
        """The standard deviation of the null."""
        return float(self.null.std(ddof=1))

    @property
    def corrected(self) -> float:
        """The estimate less the mean of the null; it may be slightly below 0."""
        return self.bits - self.mean

    @property
    def z(self) -> float:
        """How many standard deviations of the null the estimate lies above its mean.

        0 where permuting labels changes nothing.
        """
        deviation = self.deviation
        return self.corrected / deviation if deviation > 1e-12 else 0.0


@dataclasses.dataclass(frozen=True)
class LayerInformation:
    """The information of a label and the experts of a layer.

    Attributes:
      label_entropy: H(label) over choices, in bits.
      token_entropy: H(label | token) over choices, in bits: the most that `given_token` can be.
      levels: for each level I(label; expert | the group that the choice came to), outermost first.
      given_token: I(label; leaf | token).
    """

    label_entropy: float
    token_entropy: float
    levels: tuple[Information, ...]
    given_token: Information

    @property
    def leaf(self) -> Information:
        """I(label; leaf), the sum over levels; its null is the sum of theirs, draw by draw."""
        null = np.sum([level.null for level in self.levels], axis=0)
        return Information(sum(level.bits for level in self.levels), null)

    def share(self, information: Information) -> float:
        """Returns corrected information over H(label); 0 where all labels are the same."""
        return information.corrected / self.label_entropy if self.label_entropy > 0 else 0.0


def information(
    trace: Trace, layer: str, label: str, *, num_permutations: int = 1000, seed: int = 0
) -> LayerInformation:
    """Measures the information of a label and the experts of a layer.

    Args:
      trace: the trace.
      layer: name of the layer.
      label: name of the label of examples.
      num_permutations: how often labels are permuted, at least 2.
      seed: of the permutations.

    Raises:
      ValueError: the trace has no such layer or label.
    """
    choices = _labeled(routed(trace, layer, label))
    random = np.random.default_rng(seed)

    def measured(stratum: np.ndarray, expert: np.ndarray) -> Information:
        cells = permutations.cells(choices.example, stratum, choices.label, expert)
        return Information(*permutations.information(cells, num_permutations, random))

    parents = [np.zeros(len(choices), np.int64)]
    parents += [choices.groups(level) for level in range(len(choices.sizes))]
    return LayerInformation(
        label_entropy=permutations.entropy(np.bincount(choices.label)),
        token_entropy=_conditional_entropy(choices.label, choices.token),
        levels=tuple(measured(outer, inner) for outer, inner in zip(parents, parents[1:])),
        given_token=measured(choices.token, choices.leaf),
    )


def _labeled(choices: Routed) -> Routed:
    """Returns the choices of examples that have a label."""
    rows = choices.label >= 0
    columns = {
        name: getattr(choices, name)[rows]
        for name in ("example", "position", "token", "label", "leaf", "weight")
    }
    return dataclasses.replace(choices, **columns)


def _conditional_entropy(values: np.ndarray, given: np.ndarray) -> float:
    """Returns H(values | given) in bits."""
    pairs = np.unique(np.stack([values, given]), axis=1, return_counts=True)[1]
    conditions = np.unique(given, return_counts=True)[1]
    return permutations.entropy(pairs) - permutations.entropy(conditions)
