"""Checks and prepares the arguments of a layer's call."""

from __future__ import annotations

from collections.abc import Sequence

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.layer.level import Level
from hmoe.layer.token_batch import first_using_embeddings
from hmoe.mesh.layout import MeshLayout


def check_call(
    inputs: object,
    output_dim: object,
    importance: object,
    variable_dtype: object,
    num_microbatches: object,
    **switches: object,
) -> None:
    """Raises ValueError for an argument of a wrong kind; see `hmoe.HierarchicalMoE` for them."""
    where = "HierarchicalMoE"
    if not isinstance(inputs, mtf.Tensor) or not inputs.dtype.is_floating:
        raise ValueError(
            f"{where}: inputs is {inputs!r}; it must be an mtf.Tensor of"
            " floating-point numbers [batch, ..., depth]"
        )
    if not isinstance(output_dim, mtf.Dimension):
        raise ValueError(
            f"{where}: output_dim is {output_dim!r}; it must be an mtf.Dimension such"
            " as mtf.Dimension('d_model', 512)"
        )
    for name, value in switches.items():
        checks.boolean(where, name, value)
    checks.positive_int(where, "num_microbatches", num_microbatches)
    if variable_dtype is not None and not isinstance(variable_dtype, mtf.VariableDType):
        raise ValueError(
            f"{where}: variable_dtype is {variable_dtype!r}; it must be an"
            " mtf.VariableDType such as mtf.VariableDType(tf.float32), or None"
        )
    if importance is None:
        return
    if not isinstance(importance, mtf.Tensor):
        raise ValueError(
            f"{where}: importance is {importance!r}; it must be an mtf.Tensor with a"
            " number for each token, or None"
        )
    leading = inputs.shape.dims[:-1]
    if any(dim not in leading for dim in importance.shape.dims):
        raise ValueError(
            f"{where}: importance has the dimensions {importance.shape}, but the tokens of inputs"
            f" have {mtf.Shape(leading)}; give one number for each token, or for each index of some"
            " of these dimensions"
        )


def needed_embeddings(
    levels: Sequence[Level],
    inputs: mtf.Tensor,
    embeddings: mtf.Tensor | None,
    layout: MeshLayout,
) -> mtf.Tensor | None:
    """Returns the embeddings if a gate asks for them, else None.

    Raises:
      ValueError: embeddings are missing or of another shape than the inputs, or the depth is split
        where a gate appends them.
    """
    level = first_using_embeddings(levels)
    if level is None:
        return None
    depth = inputs.shape.dims[-1].name
    for each in levels:
        mode = each.router.gate.word_embeddings
        if mode and mode.startswith("concat") and layout.axis(depth):
            raise ValueError(
                f"level '{each.name}': word_embeddings is {mode!r}, but layout rule"
                f" '{depth}:{layout.axis(depth)}' splits the depth, along which nothing can be put"
                " behind it; use 'add' or 'embed_only', or remove the rule"
            )
    if embeddings is None or embeddings.shape != inputs.shape:
        given = "none are given" if embeddings is None else f"those given are {embeddings.shape}"
        raise ValueError(
            f"level '{level.name}': word_embeddings is {level.router.gate.word_embeddings!r}, which"
            f" needs embeddings of the shape of inputs, {inputs.shape}, but {given}; give"
            " embeddings=..., or set word_embeddings to None"
        )
    return embeddings


def importance_kinds(inputs: mtf.Tensor, importance: mtf.Tensor | None) -> mtf.Tensor:
    """Returns float32 importance [<leading dimensions of inputs>]: 1, 0.5 or 0.

    Only three kinds of tokens matter, and a TPU's all-to-all, which rounds, must not make a nearly
    full token a full one.
    """
    shape = mtf.Shape(inputs.shape.dims[:-1])
    if importance is None:
        return mtf.ones(inputs.mesh, shape, dtype=tf.float32)

    def kinds(importance: tf.Tensor) -> tf.Tensor:
        importance = tf.cast(importance, tf.float32)
        real, full = importance > 0, importance >= 1
        return (tf.cast(real, tf.float32) + tf.cast(full, tf.float32)) * 0.5

    importance = mtf.slicewise(
        kinds,
        [importance],
        output_dtype=tf.float32,
        splittable_dims=importance.shape.dims,
        grad_function=0,
        name="importance",
    )
    return importance if importance.shape == shape else mtf.broadcast(importance, shape)
