"""Traces: who went where, for each token, layer and level, as one Parquet file.

A row is one choice of one token at one level of one layer. A token that no expert chose at a level
has one row there, with expert -1. Rows stand in the order of examples, layers, positions, levels,
paths and ranks. The manifest is in the file's metadata, as JSON.

    task           category  the task of the example
    label/<name>   category  the example's label of that name, "" where it has none
    example        int32     number of the example, from 0, over all tasks
    layer          category  the layer, such as "encoder/block_000/layer_001"
    position       int32     position of the token in its sequence, from 0
    token          int32     id of the token that the layer reads there
    piece          category  its text
    level          int8      the level, 0 for the outermost
    path           int32     which copy of the token: the ranks of the choices that led it here,
                             outermost first, as digits to the base of each level's choices;
                             0 at the outermost level
    parent         int32     the group of experts that it came to, numbered over all levels above;
                             0 at the outermost level
    rank           int8      0 for the token's best expert there; -1 where none chose it
    expert         int32     the chosen expert, among the experts of its parent
    weight         float32   the weight of the choice, before capacity
    used           bool      whether the router's policy uses the choice
    went           int32     the expert where it went (another if it was retried); -1 without room
    margin         float32   the smallest difference of score between neighbors in rank, down to the
                             first expert that was not chosen

The number of a group one level in is parent * experts of the level + went.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hmoe.storage import atomic_write

if TYPE_CHECKING:
    import pyarrow

# Changes when a reader of older files would misread newer ones.
FORMAT = 1
NUMBERS = {
    "example": np.int32,
    "position": np.int32,
    "token": np.int32,
    "level": np.int8,
    "path": np.int32,
    "parent": np.int32,
    "rank": np.int8,
    "expert": np.int32,
    "weight": np.float32,
    "used": np.bool_,
    "went": np.int32,
    "margin": np.float32,
}
CATEGORIES = ("task", "layer", "piece")
_METADATA = b"hmoe trace"
_LABEL = "label/"


@dataclasses.dataclass(frozen=True)
class LevelInfo:
    """A level of a traced layer.

    Attributes:
      name: its name.
      num_experts: experts of each parent.
      num_choices: the most choices that a token has here.
      router: the class of its router.
      experts_choose: whether experts choose tokens: then the digit of a path is the expert.
    """

    name: str
    num_experts: int
    num_choices: int
    router: str
    experts_choose: bool = False


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """A traced layer.

    Attributes:
      name: its name, as in the column "layer".
      sequence: whose tokens it routes, "inputs" or "targets".
      levels: outermost first.
    """

    name: str
    sequence: str
    levels: tuple[LevelInfo, ...]

    @property
    def num_leaves(self) -> int:
        """The experts at the end of the hierarchy."""
        return int(np.prod([level.num_experts for level in self.levels]))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a trace is of.

    Attributes:
      version: the version of hmoe that wrote it.
      checkpoint: path of the checkpoint.
      step: its training step.
      num_examples: examples traced.
      labels: names of the examples' labels.
      layers: the layers, in the order of the model.
      settings: what else the run was made with, in words: data, split, types, mesh, layout.
    """

    version: str
    checkpoint: str
    step: int
    num_examples: int
    labels: tuple[str, ...]
    layers: tuple[LayerInfo, ...]
    settings: Mapping[str, str]

    def layer(self, name: str) -> LayerInfo:
        """Returns the layer of this name."""
        return next(layer for layer in self.layers if layer.name == name)


@dataclasses.dataclass(frozen=True)
class Category:
    """A column of few different words.

    Attributes:
      codes: int32 [rows], the number of each row's word.
      names: the words.
    """

    codes: np.ndarray
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Trace:
    """A trace in memory; every column has one entry for each row.

    Attributes:
      manifest: what it is of.
      numbers: the columns of `NUMBERS`.
      categories: the columns of `CATEGORIES`, and "label/<name>" for each label.
    """

    manifest: Manifest
    numbers: Mapping[str, np.ndarray]
    categories: Mapping[str, Category]

    def __len__(self) -> int:
        return len(self.numbers["example"])

    def label(self, name: str) -> Category:
        """Returns the column of the label of this name."""
        return self.categories[_LABEL + name]

    def rows_of(self, layer: str) -> np.ndarray:
        """Returns bool [rows], which rows are of the layer of this name."""
        column = self.categories["layer"]
        return column.codes == column.names.index(layer)

    def words(self, column: str) -> np.ndarray:
        """Returns the words of a category, one for each row."""
        category = self.categories[column]
        return np.array(category.names, dtype=object)[category.codes]


def category_names(manifest: Manifest) -> list[str]:
    """Returns the names of the columns of words of a trace with this manifest."""
    return [*CATEGORIES, *(_LABEL + name for name in manifest.labels)]


def write(path: str, trace: Trace) -> None:
    """Writes a trace, whole or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    columns: dict[str, Any] = {}
    for name in category_names(trace.manifest):
        category = trace.categories[name]
        words = pyarrow.array(list(category.names), pyarrow.string())
        columns[name] = pyarrow.DictionaryArray.from_arrays(category.codes.astype(np.int32), words)
    for name, dtype in NUMBERS.items():
        columns[name] = pyarrow.array(np.asarray(trace.numbers[name], dtype))
    manifest = {"format": FORMAT, **dataclasses.asdict(trace.manifest)}
    table = pyarrow.table(columns).replace_schema_metadata(
        {_METADATA: json.dumps(manifest, ensure_ascii=False).encode("utf-8")}
    )
    content = io.BytesIO()
    parquet.write_table(table, content, compression="zstd")
    atomic_write.write_bytes(path, content.getvalue())


def read(path: str) -> Trace:
    """Reads a trace.

    Raises:
      ValueError: the file is no trace, is damaged, or is of a newer format.
      OSError: the file cannot be read.
    """
    from etils import epath

    content = epath.Path(path).read_bytes()
    table = _table(path, content)
    manifest = _manifest(path, table)
    missing = [n for n in [*category_names(manifest), *NUMBERS] if n not in table.column_names]
    if missing:
        raise ValueError(
            f"{path}: the trace has no column {', '.join(map(repr, missing))}; trace the model"
            " again with `hmoe trace`"
        )
    numbers = {name: table.column(name).to_numpy().astype(dtype) for name, dtype in NUMBERS.items()}
    categories = {name: _category(table.column(name)) for name in category_names(manifest)}
    return Trace(manifest, numbers, categories)


def _table(path: str, content: bytes) -> pyarrow.Table:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(io.BytesIO(content))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path}: no Parquet file, or a damaged one ({str(error).splitlines()[0]}); a trace is"
            " written by `hmoe trace`"
        ) from None


def _manifest(path: str, table: pyarrow.Table) -> Manifest:
    found = (table.schema.metadata or {}).get(_METADATA)
    if found is None:
        raise ValueError(
            f"{path}: a Parquet file, but no trace: it has no manifest; a trace is written by"
            " `hmoe trace`"
        )
    fields = _fields(path, found)
    number = fields.pop("format")
    if number != FORMAT:
        raise ValueError(
            f"{path}: a trace of format {number}, but this hmoe reads format {FORMAT}; trace the"
            " model again with this version"
        )
    try:
        layers = tuple(map(_layer, fields.pop("layers")))
        return Manifest(labels=tuple(fields.pop("labels")), layers=layers, **fields)
    except (KeyError, TypeError, AttributeError):
        raise _damaged_manifest(path) from None


def _fields(path: str, manifest: bytes) -> dict[str, Any]:
    """Returns the fields of a manifest, of which at least the format is there."""
    try:
        fields = json.loads(manifest)
    except (ValueError, RecursionError):
        raise _damaged_manifest(path) from None
    if not isinstance(fields, dict) or "format" not in fields:
        raise _damaged_manifest(path)
    return fields


def _layer(fields: Mapping[str, Any]) -> LayerInfo:
    levels = tuple(LevelInfo(**level) for level in fields["levels"])
    return LayerInfo(fields["name"], fields["sequence"], levels)


def _damaged_manifest(path: str) -> ValueError:
    return ValueError(
        f"{path}: the manifest of the trace is damaged; trace the model again with `hmoe trace`"
    )


def _category(column: pyarrow.ChunkedArray) -> Category:
    encoded = column.unify_dictionaries().combine_chunks()
    if not hasattr(encoded, "dictionary"):
        encoded = encoded.dictionary_encode()
    return Category(
        encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32),
        tuple(encoded.dictionary.to_pylist()),
    )
