"""Assigns a few tokens by hand-written probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np

from hmoe.compat.stack import mtf, tf
from hmoe.mesh.randomness import RandomSource
from hmoe.routing.router import Router
from tests import graphs, meshes, tolerances
from tests.routing import contexts
from tests.slots import slot_tokens

Rows = Sequence[Sequence[float]]


@dataclasses.dataclass
class Table:
    """What came out; lists have a row for each token, `buffers` one for each expert.

    Attributes:
      buffers: the token in each slot, or None.
      weights: {expert: weight} of the experts where each token stands.
      ranks: {expert: rank} of these.
      demand: how often each expert was asked for.
    """

    buffers: list[list[int | None]]
    weights: list[dict[int, float]]
    ranks: list[dict[int, int]]
    demand: list[int]


def assign(
    router: Router,
    probabilities: Rows,
    *,
    capacity: int,
    importance: Sequence[float] | None = None,
    train: bool = False,
    uniforms: dict[str, Any] | None = None,
    balance_bias: Sequence[float] | None = None,
    logits: Rows | None = None,
) -> Table:
    """Routes one group.

    Args:
      router: what is tried.
      probabilities: of each token, by expert.
      capacity: slots of an expert.
      importance: of the tokens; None: all are full.
      train: whether this is training.
      uniforms: random numbers by the last part of their stream's name.
      balance_bias: by expert.
      logits: instead of the logarithms of the probabilities.
    """
    # The kernel is the identity: what goes into the gate comes out as logits.
    values = np.array(np.log(probabilities) if logits is None else logits, np.float32)
    tokens, experts = values.shape
    given = np.ones(tokens) if importance is None else np.array(importance)

    def value_of(name: str, shape: Sequence[int]) -> np.ndarray:
        return np.array(balance_bias, np.float32) if "balance" in name else np.eye(*shape)

    def known(self: RandomSource, mesh: Any, shape: Any, dtype: Any = tf.float32) -> Any:
        numbers = np.array((uniforms or {})[self.path.split("/")[-1]], np.float32)
        return graphs.constant(
            mesh, np.broadcast_to(numbers, shape.to_integer_list).copy(), shape.dims
        )

    with tf.Graph().as_default(), mock.patch.object(RandomSource, "uniform", known):
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        s, m, x = (
            mtf.Dimension(name, size)
            for name, size in (
                ("group_size", tokens),
                ("d_model", experts),
                ("experts_unsplit", experts),
            )
        )
        has_partial_tokens = bool(((given > 0) & (given < 1)).any())
        context = contexts.context_for(
            x, capacity, train=train, has_partial_tokens=has_partial_tokens
        )
        scores = router.score(graphs.constant(mesh, values, [s, m]), None, context)
        importance = graphs.constant(mesh, given.astype(np.float32), [s])
        result = router.assign(scores, importance, context)
        choices = result.choices
        wanted = {
            "expert": result.expert,
            "position": result.position,
            "kept": result.kept,
            "weight": result.weight,
            "rank": choices.rank,
            "demand": choices.demand,
            "asked": choices.expert,
        }
        lowering = meshes.lower(mesh)
        fetched = {name: lowering.export_to_tf_tensor(each) for name, each in wanted.items()}
        with graphs.quick_session() as session:
            session.run(tf.global_variables_initializer())
            graphs.load_weights(session, lowering, value_of)
            got = session.run(fetched)
    got["buffers"] = slot_tokens(got["expert"], got["position"], experts, capacity)
    return _table(got, experts)


def _table(got: dict[str, np.ndarray], experts: int) -> Table:
    def where_kept(name: str) -> list[dict[int, Any]]:
        rows = []
        for expert, kept, values in zip(got["expert"], got["kept"], got[name]):
            rows.append({int(e): v.item() for e, there, v in zip(expert, kept, values) if there})
            # No token stands twice at one expert.
            assert len(rows[-1]) == kept.sum()
        return rows

    demand = [int(got["demand"][got["asked"] == e].sum()) for e in range(experts)]
    buffers = [[None if t < 0 else int(t) for t in row] for row in got["buffers"]]
    return Table(buffers, where_kept("weight"), where_kept("rank"), demand)


def assert_weights(table: Table, expected: list[dict[int, float]]) -> None:
    """The same experts, with the same weights."""
    assert [sorted(row) for row in table.weights] == [sorted(row) for row in expected]
    for token, (row, other) in enumerate(zip(table.weights, expected)):
        for expert, weight in other.items():
            tolerances.assert_close(
                row[expert], weight, tolerances.SAME, f"token {token}, expert {expert}"
            )
