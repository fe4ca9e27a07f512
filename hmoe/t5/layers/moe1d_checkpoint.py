"""Names of variables in checkpoints of Mesh TensorFlow's own mixture layers."""

from __future__ import annotations


def moe1d_variable_name(name: str) -> str:
    """Returns the name of a variable in a checkpoint of upstream's `MoE1D`.

    For gin: `init_checkpoint_variable_mapping.mapping_fn = @hmoe.moe1d_variable_name`.

    Args:
      name: the name of a variable of a T5 with one-level `hmoe.MoELayer`s.

    Returns:
      The same name with upstream's class in the scope; other variables keep theirs.
    """
    return name.replace("/MoELayer/", "/MoE1D/")
