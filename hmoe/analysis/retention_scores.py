"""The loss of each label with some experts kept: as a file, and as tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from hmoe.storage import atomic_write

ALL = "all"
TOP_LEAVES = "top_leaves"
TOP_GROUPS = "top_groups"
RANDOM_LEAVES = "random_leaves"
RANDOM_GROUPS = "random_groups"
WITHOUT_GROUP = "without_group"
# The ways to keep a share of the experts, in the order of `RetentionTable`.
WAYS = (TOP_LEAVES, TOP_GROUPS, RANDOM_LEAVES, RANDOM_GROUPS)

_Kind = TypeVar("_Kind", "RetentionScore", "RetentionStudy")

# Changes when a reader of older files would misread newer ones.
_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class RetentionScore:
    """The loss of one label's examples with some experts kept.

    Attributes:
      label: the label.
      kept: what was kept: `ALL`, one of `WAYS`, or `WITHOUT_GROUP`.
      share: the share of leaves that were kept.
      loss: cross entropy, in nats per target token.
      num_targets: target tokens scored.
      seed: of what was kept at random; None: nothing at random.
      group: the outer group left out by `WITHOUT_GROUP`; None: another way.
      layer: the layer that it was left out of; None: all layers, or another way.
    """

    label: str
    kept: str
    share: float
    loss: float
    num_targets: int
    seed: int | None = None
    group: int | None = None
    layer: str | None = None


@dataclasses.dataclass(frozen=True)
class RetentionStudy:
    """The scores of a checkpoint for the values of one label, and what they were made from.

    Attributes:
      label: name of the label, such as "language".
      step: the checkpoint's step.
      trace: the file of the trace that says which experts each value uses most.
      version: version of hmoe.
      scores: the scores.
    """

    label: str
    step: int
    trace: str
    version: str
    scores: tuple[RetentionScore, ...]


@dataclasses.dataclass(frozen=True)
class RetentionTable:
    """The loss of each label by the share that is kept, and by how it is chosen.

    Attributes:
      labels: the labels, in alphabetical order.
      shares: float64 [shares], the shares of leaves, ascending.
      loss_of_all: float64 [labels], the loss with all experts, nats per target token.
      loss: float64 [labels, shares, ways], the mean over seeds, ways as in `WAYS`.
      deviation: float64 as `loss`, the standard deviation over seeds; nan with fewer than two.
      num_scores: int64 as `loss`, how many scores the mean is of.

    A loss that was not scored is nan.
    """

    labels: tuple[str, ...]
    shares: np.ndarray
    loss_of_all: np.ndarray
    loss: np.ndarray
    deviation: np.ndarray
    num_scores: np.ndarray

    @property
    def excess(self) -> np.ndarray:
        """The loss minus that with all experts, float64 as `loss`."""
        return self.loss - self.loss_of_all[:, None, None]


@dataclasses.dataclass(frozen=True)
class GroupMatrix:
    """What each outer group is worth to each label.

    Attributes:
      labels: the labels, in alphabetical order.
      excess: float64 [labels, groups], the loss without the group minus the loss with all, nats per
        target token; nan where one of them was not scored.
    """

    labels: tuple[str, ...]
    excess: np.ndarray


def write(path: str, study: RetentionStudy) -> None:
    """Writes a study as JSON, whole or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    content = {"format": _FORMAT, **dataclasses.asdict(study)}
    atomic_write.write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read(path: str) -> RetentionStudy:
    """Reads a study.

    Raises:
      ValueError: the file has no scores, is damaged, or is of a newer format.
      OSError: the file cannot be read.
    """
    from etils import epath

    try:
        content = json.loads(epath.Path(path).read_text(encoding="utf-8"))
        number = content.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path) from None
    if number != _FORMAT:
        raise ValueError(
            f"{path}: scores of format {number}, but this hmoe reads format {_FORMAT}; score the"
            " model again with this version"
        )
    study = _filled(RetentionStudy, content, path)
    scores = tuple(_filled(RetentionScore, each, path) for each in study.scores)
    return dataclasses.replace(study, scores=scores)


def table(scores: Sequence[RetentionScore]) -> RetentionTable:
    """Arranges scores by label, share and way, without those of `WITHOUT_GROUP`."""
    labels = _labels(scores)
    shares = sorted({_rounded(score.share) for score in scores if score.kept in WAYS})
    cells: dict[tuple[int, int, int], list[float]] = {}
    for score in scores:
        if score.kept in WAYS:
            share = shares.index(_rounded(score.share))
            key = (labels.index(score.label), share, WAYS.index(score.kept))
            cells.setdefault(key, []).append(score.loss)
    shape = (len(labels), len(shares), len(WAYS))
    loss, deviation = np.full(shape, np.nan), np.full(shape, np.nan)
    number = np.zeros(shape, np.int64)
    for key, losses in cells.items():
        loss[key], number[key] = np.mean(losses), len(losses)
        if len(losses) > 1:
            deviation[key] = np.std(losses, ddof=1)
    return RetentionTable(
        labels, np.array(shares), _loss_of_all(scores, labels), loss, deviation, number
    )


def group_matrix(scores: Sequence[RetentionScore], layer: str | None = None) -> GroupMatrix:
    """Arranges by label and group how much worse each label is without each outer group.

    Args:
      scores: the scores.
      layer: the layer that groups were left out of; None: all layers at once.
    """
    labels = _labels(scores)
    without = [each for each in scores if each.kept == WITHOUT_GROUP and each.layer == layer]
    num_groups = 1 + max((score.group for score in without if score.group is not None), default=-1)
    loss = np.full((len(labels), num_groups), np.nan)
    for score in without:
        loss[labels.index(score.label), score.group] = score.loss
    return GroupMatrix(labels, loss - _loss_of_all(scores, labels)[:, None])


def _labels(scores: Sequence[RetentionScore]) -> tuple[str, ...]:
    return tuple(sorted({score.label for score in scores}))


def _loss_of_all(scores: Sequence[RetentionScore], labels: tuple[str, ...]) -> np.ndarray:
    """Returns the loss of each label with all experts, nan where it was not scored."""
    found = {score.label: score.loss for score in scores if score.kept == ALL}
    return np.array([found.get(label, np.nan) for label in labels], np.float64)


def _rounded(share: float) -> float:
    """Returns a share such that 2 of 3 groups and 4 of 6 leaves are equal."""
    return round(share, 9)


def _filled(kind: type[_Kind], fields: Any, path: str) -> _Kind:
    """Returns a dataclass of the fields that a file has for it."""
    names = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(fields, dict) or set(fields) != names:
        raise _damaged(path)
    return kind(**fields)


def _damaged(path: str) -> ValueError:
    return ValueError(f"{path}: no scores with experts kept, or a damaged file")
