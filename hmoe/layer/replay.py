"""Replays choices that were recorded before: each token takes them along through the levels.

A token brings one vector of float32 to a layer, made by `hmoe.analysis.replay`. At a level with k
choices it is

    [own entry of each rank 0 ... k - 1][vector of the next level for each of these ranks]

and a choice of rank r takes the r-th of the inner vectors to its slot. An entry is the number of
the expert plus 1, negative if the policy did not use the choice, and 0 where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from hmoe.compat.stack import mtf, tf
from hmoe.layer.level import Level


def vector_sizes(levels: Sequence[Level]) -> list[int]:
    """Returns the length of a token's vector at each level.

    Args:
      levels: the levels of a layer, outermost first.

    Returns:
      For each level and one more, outermost first; 0 behind the last level.
    """
    sizes = [0]
    for level in reversed(levels):
        sizes.insert(0, level.router.num_choices(level.num_experts) * (1 + sizes[0]))
    return sizes


def vector_dim(size: int) -> mtf.Dimension:
    """Returns the dimension of vectors, by a name that no layout rule splits."""
    return mtf.Dimension("replayed_choices", size)


def check_replay(
    levels: Sequence[Level],
    token_dims: list[mtf.Dimension],
    replay: mtf.Tensor | None,
    *,
    leaves_experts_out: bool,
) -> None:
    """Checks the replayed choices of a call.

    Args:
      levels: the levels of the layer, outermost first.
      token_dims: the dimensions of the inputs but for the depth.
      replay: the vectors.
      leaves_experts_out: whether the call is given `kept_experts`.

    Raises:
      ValueError: the shape does not suit the levels, or a router cannot be replayed.
    """
    if replay is None:
        return
    for level in levels:
        reason = level.router.reason_not_to_replay
        if reason is not None:
            raise ValueError(f"level '{level.name}': no choices can be replayed: {reason}")
    shape = mtf.Shape([*token_dims, vector_dim(vector_sizes(levels)[0])])
    if replay.shape != shape:
        raise ValueError(
            f"HierarchicalMoE: replay has the shape {replay.shape}, but the tokens and levels need"
            f" {shape}; make its vectors with hmoe.analysis.replay"
        )
    if leaves_experts_out:
        raise ValueError(
            "HierarchicalMoE: replay and kept_experts are both given, but a replayed choice may be"
            " of an expert that is left out; give one of them"
        )


def own_entries(replay: mtf.Tensor, level: Level) -> mtf.Tensor:
    """Returns float32 [..., k], the entries of a level itself, of vectors [..., V]."""
    k = level.router.num_choices(level.num_experts)
    return mtf.slice(replay, 0, k, replay.shape.dims[-1].name)


def inner_vectors(
    replay: mtf.Tensor, rank: mtf.Tensor, further: Sequence[Level]
) -> list[mtf.Tensor]:
    """Returns what the choices of tokens take along.

    Args:
      replay: float32 [..., S, V], vectors of tokens at a level.
      rank: int32 [..., S, K], the rank of each choice.
      further: the levels from the next one on.

    Returns:
      The numbers of the inner vectors one by one, float32 [..., S, K] each, without a gradient.
    """
    size = vector_sizes(further)[0]

    def of_choices(replay: tf.Tensor, rank: tf.Tensor) -> tf.Tensor:
        *tokens, length = replay.shape.as_list()
        k = length // (1 + size)
        # [..., S, k * size] -> [..., S, k, size]
        vectors = tf.reshape(replay[..., k:], [*tokens, k, size])
        # The second round of placement has a rank of its own even where there is one choice.
        rank = tf.minimum(rank, k - 1)
        # [..., S, k, size], [..., S, K] -> [..., S, K, size]
        return tf.gather(vectors, rank, axis=-2, batch_dims=len(tokens))

    dim = vector_dim(size)
    taken = mtf.slicewise(
        of_choices,
        [replay, rank],
        output_shape=mtf.Shape([*rank.shape.dims, dim]),
        output_dtype=tf.float32,
        splittable_dims=rank.shape.dims[:-1],
        grad_function=0,
        name="replay_further_in",
    )
    # [..., S, K, size] -> size of [..., S, K]
    return mtf.unstack(taken, dim)
