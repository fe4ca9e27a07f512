"""The table of what is replaced or read in other packages agrees with these, and is complete."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path

import pytest

import hmoe
from hmoe.compat import patches, stack
from hmoe.compat.internals import Internal, Patch, installed_version
from tests.compat import foreign_writes, samples

PACKAGE = Path(hmoe.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "compat")

# What has the attribute, where only instances have it.
SAMPLES = {
    patches.CONTROL_DEPENDENCIES: samples.graph,
    patches.COLOCATION: samples.graph,
    patches.DEVICES: samples.graph,
    patches.DEVICE_NAME: samples.device,
    patches.OPERATION_OUTPUTS: samples.operation,
    patches.SPLITTABLE_DIMS: samples.operation,
    patches.UNSPLITTABLE_DIMS: samples.operation,
    patches.LAYOUT_PAIRS: samples.layout_rules,
    patches.MULTIPLIED_BY: samples.scaled,
    patches.ADDED_NUMBER: samples.shifted,
    patches.LAID_OUT_TENSOR: samples.laid_out_variable,
    patches.COPY_TO_SLICES: samples.laid_out_variable,
    patches.COPY_TO_MASTER: samples.laid_out_variable,
    patches.LOOP_BODY: samples.loop,
    patches.LOOP_INPUTS: samples.loop,
    patches.LOOP_OUTPUTS: samples.loop,
    patches.CUSTOM_OUTPUTS: samples.custom_gradient,
    patches.DEPENDENCIES: samples.depend,
    patches.REDUCTION_KIND: samples.reduction,
    patches.RECOMPUTE_GRADS: samples.layer_stack,
    patches.GIN_SELECTORS: samples.registry,
    patches.GIN_WRAPPED: samples.configurable,
    patches.LOCALE_DATA: samples.locale,
}


def name(entry: Internal | Path) -> str:
    return str(entry.relative_to(ROOT)) if isinstance(entry, Path) else entry.name


@pytest.mark.parametrize("entry", patches.TABLE, ids=name)
def test_upstream_has_the_shape_that_is_relied_on(entry: Internal) -> None:
    sample = SAMPLES.get(entry)
    difference = entry.mismatch(sample() if sample else None)
    assert difference is None, difference


@pytest.mark.parametrize("entry", patches.TABLE, ids=name)
def test_entries_say_why_and_name_files_that_use_them(entry: Internal) -> None:
    assert entry.reason.endswith(".")
    assert entry.parameters is not None or entry.has
    (constant,) = [key for key, value in vars(patches).items() if value is entry]
    for file in entry.used_in:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert entry.attribute in text or f"patches.{constant}" in text, file


def test_another_shape_is_a_sentence() -> None:
    other = dataclasses.replace(
        patches.EXPAND_DIMS, versions="0.1.20", parameters="x, old_shape", used_in=("a.py", "b.py")
    )
    assert other.mismatch() == (
        "mesh_tensorflow 0.1.20 had mesh_tensorflow.ops._expand_dims(x, old_shape); the installed "
        "0.1.21 has mesh_tensorflow.ops._expand_dims(x, input_shape, output_shape): look at a.py, "
        "b.py"
    )


def test_a_missing_name_is_a_sentence() -> None:
    gone = dataclasses.replace(patches.EXPAND_DIMS, name="_expand")
    assert gone.mismatch() == (
        "mesh_tensorflow 0.1.21 had mesh_tensorflow.ops._expand(x, input_shape, output_shape); the "
        "installed 0.1.21 has no mesh_tensorflow.ops._expand: look at hmoe/lowering/graph_hooks.py, "
        "hmoe/lowering/placement.py, hmoe/lowering/collective.py"
    )
    nowhere = dataclasses.replace(patches.EXPAND_DIMS, module="mesh_tensorflow.none")
    assert "0.1.21 has no mesh_tensorflow.none._expand_dims: look" in str(nowhere.mismatch())


def test_a_value_of_another_kind_is_a_sentence() -> None:
    rules = types.SimpleNamespace(_pairs=3)
    assert patches.LAYOUT_PAIRS.mismatch(rules) == (
        "mesh_tensorflow 0.1.21 had mesh_tensorflow.ops.LayoutRules._pairs with __iter__, __sub__; "
        "the installed 0.1.21 has mesh_tensorflow.ops.LayoutRules._pairs with __sub__: look at "
        "hmoe/mesh/layout.py, hmoe/t5/layers/layout_check.py, hmoe/lowering/collective.py, "
        "hmoe/t5/graphs/step_plan.py, hmoe/t5/evaluation/trace.py"
    )


def test_installed_versions() -> None:
    assert installed_version("gin") == "0.5.0"
    assert installed_version("tensorflow") == stack.tf.version.VERSION
    assert installed_version("no_such_package") == "version"


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """An entry for a module of its own."""

    class Thing:
        def method(self) -> str:
            return "method"

    module = types.SimpleNamespace(Thing=Thing, value=1)
    monkeypatch.setitem(sys.modules, "made_up", module)  # type: ignore[arg-type]
    return Patch(
        package="made_up",
        versions="1",
        module="made_up",
        name="value",
        reason="To try.",
        used_in=(),
    )


def test_replacing_for_a_while_puts_back_even_after_an_error(patch: Patch) -> None:
    def fail() -> None:
        with patch.replaced_by(2):
            assert patch.owner().value == 2
            with patch.replaced_by(3):
                assert patch.owner().value == 3
            assert patch.owner().value == 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert patch.owner().value == 1


def test_replacing_on_one_object_leaves_its_class_alone(patch: Patch) -> None:
    method = dataclasses.replace(patch, name="Thing.method")
    first, second = method.owner()(), method.owner()()
    with method.replaced_by(lambda: "other", on=first):
        assert (first.method(), second.method()) == ("other", "method")
        with method.replaced_by(lambda: "third", on=first):
            assert first.method() == "third"
        assert first.method() == "other"
    assert (first.method(), vars(first)) == ("method", {})


def test_replacing_on_a_graph_leaves_other_graphs_alone() -> None:
    first, second = stack.tf.Graph(), stack.tf.Graph()
    with patches.CREATE_OPERATION.replaced_by(print, on=first):
        assert first._create_op_internal is print
        assert second._create_op_internal is not print
    assert first._create_op_internal.__self__ is first


def test_adding_leaves_alone_what_is_there(patch: Patch) -> None:
    patch.add_if_missing(lambda: 5)
    added = dataclasses.replace(patch, name="added")
    added.add_if_missing(lambda: 6)
    added.add_if_missing(lambda: 7)
    assert (patch.owner().value, patch.owner().added) == (1, 6)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_else_sets_attributes_of_other_packages(path: Path) -> None:
    assert foreign_writes.writes(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_private_names_that_are_read_are_in_the_table(path: Path) -> None:
    file = path.relative_to(ROOT).as_posix()
    listed = {entry.attribute for entry in patches.TABLE if file in entry.used_in}
    listed |= {each for entry in patches.TABLE if file in entry.used_in for each in entry.has}
    assert set(foreign_writes.private_reads(path.read_text(encoding="utf-8"))) <= listed


@pytest.mark.parametrize(
    "statement",
    [
        "import gin\ngin.config._REGISTRY = {}",
        "from mesh_tensorflow.transformer import utils\nutils.eval_model = print",
        "from hmoe.compat.stack import mtf\nops = mtf.ops\nops.random_uniform = print",
        "from gin import config\nreaders = config._FILE_READERS\nreaders[0] = None",
        "def f(graph):\n    graph._create_op_internal = print",
        "def f(graph):\n    del graph._create_op_internal",
        "def f(module, name):\n    setattr(module, name, 1)",
        "from hmoe.compat.stack import tf\nsetattr(tf, 'estimator', None)",
        "import gin\ngin.x, y = 1, 2",
        "import gin\ngin.count += 1",
        "import sys\nsys.modules['gin'] = None",
    ],
)
def test_the_check_finds_what_sets_attributes(statement: str) -> None:
    assert len(foreign_writes.writes(statement)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "class A:\n    def f(self):\n        self.x = 1\n        object.__setattr__(self, 'y', 2)",
        "import threading\n_open = threading.local()\n_open.records = []",
        "def f(sums):\n    sums['x'] = 1",
        "import copy\ndef f(x):\n    other = copy.copy(x)\n    other.names = ()",
    ],
)
def test_the_check_leaves_own_objects_alone(statement: str) -> None:
    assert foreign_writes.writes(statement) == []


def test_the_check_finds_private_names() -> None:
    source = (
        "from gin.config import _REGISTRY\n"
        "def _own(): ...\n"
        "class A:\n"
        "    _kept: int\n"
        "    def f(self, x):\n"
        "        self._y = x._pairs\n"
        "        return self._y, self._kept, A._own, getattr(x, '_layers', []), x._asdict()\n"
    )
    assert foreign_writes.private_reads(source) == ["_REGISTRY", "_layers", "_pairs"]
