"""Makes two batch dimensions where the caller has one, and undoes it.

Two levels exchange tokens along two axes of the mesh, so tokens need two batch dimensions. Training
in T5 has them; prediction and scoring do not.
"""

from __future__ import annotations

import dataclasses

from hmoe.compat.stack import mtf
from hmoe.mesh.layout import MeshLayout

NAME = "outer_batch"


@dataclasses.dataclass(frozen=True)
class BatchDims:
    """How the leading dimensions of a tensor become [A, B, ...].

    Attributes:
      original: the caller's dimensions before the depth.
      outer: A, the outer batch.
      inner: B, the batch.
      inserted: whether A was cut out of the caller's batch.
    """

    original: list[mtf.Dimension]
    outer: mtf.Dimension
    inner: mtf.Dimension
    inserted: bool

    @property
    def _rest(self) -> list[mtf.Dimension]:
        return self.original[1 if self.inserted else 2 :]

    @property
    def _whole(self) -> mtf.Dimension:
        """A, by a name that no layout rule splits."""
        return mtf.Dimension(f"{NAME}_unsplit", self.outer.size)

    def split(self, tensor: mtf.Tensor) -> mtf.Tensor:
        """Reshapes [*original, ...] -> [A, B, *rest, ...].

        An inserted A is the minor part of the batch: the batch stays split as it is, and each
        device keeps its share of A without communication.
        """
        if not self.inserted:
            return tensor
        tail = self._rest + tensor.shape.dims[len(self.original) :]
        if self.outer.size == 1:
            return mtf.reshape(tensor, mtf.Shape([self.outer, self.inner] + tail))
        # One reshape either factors a dimension or splits it, not both.
        tensor = mtf.reshape(tensor, mtf.Shape([self.inner, self._whole] + tail))
        tensor = mtf.reshape(tensor, mtf.Shape([self.inner, self.outer] + tail))
        return mtf.transpose(tensor, mtf.Shape([self.outer, self.inner] + tail))

    def merge(self, tensor: mtf.Tensor) -> mtf.Tensor:
        """Reshapes [A, B, *rest, ...] -> [*original, ...]; an inserted A is gathered."""
        if not self.inserted:
            return tensor
        tail = tensor.shape.dims[2 + len(self._rest) :]
        inner = self._rest + tail
        if self.outer.size > 1:
            tensor = mtf.transpose(tensor, mtf.Shape([self.inner, self.outer] + inner))
            tensor = mtf.reshape(tensor, mtf.Shape([self.inner, self._whole] + inner))
        return mtf.reshape(tensor, mtf.Shape(self.original + tail))


def batch_dims(dims: list[mtf.Dimension], layout: MeshLayout, size: int | None = None) -> BatchDims:
    """Finds the two batch dimensions of a tensor, or makes the outer one.

    Args:
      dims: all dimensions before the depth; `outer_batch` first if there is one.
      layout: how dimensions are split over devices.
      size: the size of an outer batch to insert; None: the number of devices that share it.

    Returns:
      How to split and merge tensors. Where the batch cannot be divided, the outer batch has size 1
      and a name that no layout rule splits.

    Raises:
      ValueError: there is no batch dimension, or `size` does not divide it.
    """
    if dims and dims[0].name == NAME:
        if len(dims) < 2:
            raise ValueError(
                f"inputs have the dimension {NAME} and no batch dimension after it;"
                " give tokens as [outer_batch, batch, ..., depth]"
            )
        return BatchDims(dims, dims[0], dims[1], inserted=False)
    if not dims:
        raise ValueError(
            "inputs have a depth and no batch dimension; give tokens as"
            " [batch, ..., depth] or [outer_batch, batch, ..., depth]"
        )
    batch = dims[0]
    wanted = size or layout.num_splits(NAME)
    if size and size % layout.num_splits(NAME):
        raise ValueError(
            f"inserted_outer_batch = {size} cannot be split over the {layout.num_splits(NAME)}"
            f" devices of mesh axis '{layout.axis(NAME)}'; use a multiple, or None"
        )
    if batch.size % (wanted * layout.num_splits(batch.name)):
        if size:
            raise ValueError(
                f"inserted_outer_batch = {size} does not divide the {batch.size} examples of"
                f" '{batch.name}' on each of {layout.num_splits(batch.name)} device(s); use a"
                " divisor, or None"
            )
        return BatchDims(dims, mtf.Dimension(f"{NAME}_unsplit", 1), batch, inserted=True)
    outer = mtf.Dimension(NAME, wanted)
    return BatchDims(dims, outer, mtf.Dimension(batch.name, batch.size // wanted), inserted=True)
