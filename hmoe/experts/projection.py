"""The matrix multiplies of experts."""

from __future__ import annotations

from hmoe.compat.stack import mtf


def project(
    inputs: mtf.Tensor, kernel: mtf.Tensor, new_dim: mtf.Dimension, name: str
) -> mtf.Tensor:
    """Multiplies [*experts, ..., I] by a kernel [*experts, I, `new_dim`].

    The forward pass and both backward passes are one batched matrix multiply each, of tensors as
    they lie in memory.

    Returns:
      [*experts, ..., `new_dim`].
    """
    shape = mtf.Shape([*inputs.shape.dims[:-1], new_dim])
    outputs: mtf.Tensor = _Projection([inputs, kernel], shape, name=f"{name}/einsum").outputs[0]
    if mtf.layers.unit_scaling_convention():
        outputs *= inputs.shape.dims[-1].size ** -0.5
    return outputs


class _Projection(mtf.EinsumOperation):
    """An einsum whose gradients need no transposing.

    Mesh TensorFlow's own puts the gradient of the output first. The kernel's gradient then is a
    multiply in the other order and a transpose, which takes twice the time.
    """

    def gradient(self, grad_ys: list[mtf.Tensor]) -> list[mtf.Tensor]:
        inputs, kernel = self.inputs
        return [
            mtf.einsum([grad_ys[0], kernel], inputs.shape),
            mtf.einsum([inputs, grad_ys[0]], kernel.shape),
        ]
