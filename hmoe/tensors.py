"""Operations on tensors that Mesh TensorFlow lacks."""
from __future__ import annotations

from hmoe.compat.stack import mtf


def unstacked(tensor: mtf.Tensor, dim: mtf.Dimension) -> list[mtf.Tensor]:
    """As `mtf.unstack`, whose gradient fails where one of the parts is not used."""
    shape = tensor.shape - dim
    return [mtf.reshape(mtf.slice(tensor, number, 1, dim.name), shape)
            for number in range(dim.size)]
