"""How named dimensions are split over the mesh; the only reader of the mesh shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from hmoe.compat.stack import mtf
from hmoe.startup import mesh_text
from hmoe.startup.mesh_text import ONE_LEVEL, SEVERAL_LEVELS

MAX_LEVELS = len(SEVERAL_LEVELS)

# As users write them, or as Mesh TensorFlow reads them.
MeshShape: TypeAlias = "str | mtf.Shape"
LayoutRules: TypeAlias = "str | mtf.LayoutRules"


class HasExperts(Protocol):
    """A level, as far as a layout is concerned."""

    @property
    def name(self) -> str:
        """The level's name, for messages."""

    @property
    def num_experts(self) -> int:
        """The number of experts that devices share."""


def expert_dimension_names(num_levels: int) -> tuple[str, ...]:
    """Returns the names of a layer's expert dimensions, outermost first."""
    return ONE_LEVEL if num_levels == 1 else SEVERAL_LEVELS[:num_levels]


def unsplit_name(name: str) -> str:
    """Returns the name of the same dimension in a tensor that is split along another one."""
    return "expert_unsplit" if name == "experts" else f"{name}_unsplit"


def tensor_order(expert_dims: Sequence[mtf.Dimension]) -> list[mtf.Dimension]:
    """Returns expert dimensions in the order that tensors and variables have them.

    Lists of levels and of expert dimensions run outermost first. In tensors the innermost level
    comes first, as in the variables of upstream's checkpoints and as dispatch adds one dimension in
    front of the others.
    """
    return list(reversed(expert_dims))


def dimensions(operations: Iterable[mtf.Operation]) -> list[mtf.Dimension]:
    """Returns the dimensions of all results of operations, each once, those in loops too."""
    found: dict[mtf.Dimension, None] = {}
    for operation in operations:
        if isinstance(operation, mtf.ops.WhileLoopOperation):
            found.update(dict.fromkeys(dimensions(operation._body_ops)))
        for output in operation.outputs:
            found.update(dict.fromkeys(output.shape.dims))
    return list(found)


def check_dimensions(
    dims: Iterable[mtf.Dimension], mesh_shape: mtf.Shape, layout_rules: mtf.LayoutRules
) -> None:
    """Checks that devices can share the dimensions that are split.

    Raises:
      ValueError: a mesh axis does not divide a dimension.
    """
    for dim in dims:
        number = layout_rules.tensor_dimension_to_mesh_axis(dim, mesh_shape)
        axis = None if number is None else mesh_shape[number]
        if axis is not None and dim.size % axis.size:
            raise ValueError(
                f"dimension '{dim.name}' has size {dim.size}, which the {axis.size} devices of mesh"
                f" axis '{axis.name}' cannot share; use a multiple of {axis.size}, or another"
                " layout (utils.run.layout_rules)"
            )


class MeshLayout:
    """A mesh shape with layout rules, as users write them."""

    def __init__(self, mesh_shape: MeshShape | None = None, layout: LayoutRules | None = None):
        """Reads a mesh shape and layout rules.

        Args:
          mesh_shape: "rows:2;cols:4", a mtf.Shape, or None for one device.
          layout: "outer_batch:rows;batch:cols", mtf.LayoutRules, or None.
        """
        self._mesh: dict[str, int] = {
            dim.name: dim.size for dim in mtf.convert_to_shape(mesh_shape or []).dims
        }
        rules = mtf.convert_to_layout_rules(layout or [])
        # LayoutRules has no public accessor for its pairs.
        self._rules: list[tuple[str, str]] = sorted(rules._pairs)

    def axis(self, dimension: str) -> str | None:
        """Returns the mesh axis over which a dimension of this name is split, if any."""
        axes = [axis for name, axis in self._rules if name == dimension and axis in self._mesh]
        return axes[0] if axes else None

    def num_splits(self, dimension: str) -> int:
        """Returns the number of devices that share a dimension of this name; 1 if it is whole."""
        axis = self.axis(dimension)
        return 1 if axis is None else self._mesh[axis]

    def check_rules(self, known_dimensions: Iterable[str], *, closed: bool = True) -> list[str]:
        """Checks that rules name dimensions and mesh axes that exist.

        Args:
          known_dimensions: every dimension name that the model can have.
          closed: whether the model can have no others; layers of a user's own may have any.

        Returns:
          A sentence for each rule whose dimension is not known, if the model may have others.

        Raises:
          ValueError: a rule can have no effect, or splits a dimension twice.
        """
        return mesh_text.check_rules(self._rules, self._mesh, known_dimensions, closed=closed)

    def check_levels(self, levels: Sequence[HasExperts]) -> None:
        """Checks that the experts of the levels can be split as the rules say.

        Args:
          levels: the levels of a layer, outermost first; each has `name` and `num_experts`.

        Raises:
          ValueError: devices cannot share the experts evenly, or two dimensions of one tensor are
            split over the same mesh axis.
        """
        names = expert_dimension_names(len(levels))
        for level, name in zip(levels, names):
            splits = self.num_splits(name)
            if level.num_experts % splits:
                raise ValueError(
                    f"level '{level.name}': {name} has {level.num_experts} experts, which the"
                    f" {splits} devices of mesh axis '{self.axis(name)}' cannot share; use a"
                    f" multiple of {splits} or another layout"
                )
        if len(levels) > 2 and self.axis(names[2]):
            raise ValueError(
                f"level '{levels[2].name}': layout rule '{names[2]}:{self.axis(names[2])}' splits"
                " the experts of a third level, but a T5 has two batch dimensions to exchange them"
                " for; remove the rule, or use two levels"
            )
        # With one level, the outer batch is exchanged for nothing and stays in the buffers.
        stays = ["outer_batch"] if len(levels) == 1 else []
        self._check_together([*names, "expert_hidden", *stays])
        self._check_together(["outer_batch", "batch"])
        if len(levels) > 1:
            # While tokens wait for the second level, these stand in one tensor.
            self._check_together([names[0], "outer_batch"])

    def _check_together(self, names: Sequence[str]) -> None:
        """Raises ValueError if two of the dimensions, found in one tensor, share an axis."""
        axes = {name: axis for name in names if (axis := self.axis(name))}
        mesh_text.check_together(names, axes)

    def warnings(self, levels: Sequence[HasExperts]) -> list[str]:
        """Returns a sentence for each dimension that stays whole although the mesh has room."""
        names = expert_dimension_names(len(levels))[:2]
        batches = ["batch", "outer_batch"][: len(names)]
        said = []
        # For each level, the experts and the batch dimension that they are exchanged for.
        for number, pair in enumerate(zip(names, batches)):
            for name, partner in (pair, pair[::-1]):
                axis = self.axis(partner) or self._free_axis(number)
                if self.axis(name) is None and axis is not None:
                    said.append(
                        f"dimension '{name}' is not split, although the mesh has"
                        f" {self._describe_mesh()}: every device holds all of it. Add a layout rule"
                        f" such as '{name}:{axis}' if that is not meant"
                    )
        for name, partner in zip(names, batches):
            if self.axis(name) != self.axis(partner) and self.axis(name) and self.axis(partner):
                said.append(
                    f"'{name}' is split over mesh axis '{self.axis(name)}' and '{partner}' over"
                    f" '{self.axis(partner)}': the exchange between them is no all-to-all along one"
                    " axis but gathers whole tensors. Split both over the same axis"
                )
        return said

    def _free_axis(self, number: int) -> str | None:
        """Returns a mesh axis for a level: the last one for the first level, and so on."""
        large = [axis for axis, size in self._mesh.items() if size > 1]
        return large[-1 - number] if number < len(large) else None

    def _describe_mesh(self) -> str:
        return mesh_text.describe(self._mesh)
