"""Bindings that nothing is built with are found, and no others."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
from pathlib import Path

import pytest

from hmoe.config import REQUIRED
from hmoe.startup import configuration, gin_files, gin_reading
from hmoe.startup.gin_checks import names, scopes
from hmoe.startup.request import Request
from hmoe.t5 import configurables
from hmoe.t5.data import cldr_formats, cldr_names, training_data
from hmoe.t5.sessions import session_settings

ROOT = Path(__file__).parents[3]


def shipped(folder: str) -> list[str]:
    found = os.listdir(os.path.join(gin_files.folder(), folder))
    return [f"{folder}/{each}" for each in sorted(found) if re.match(r"[^_].*\.gin$", each)]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _checkpoints(_folder: None) -> None:
    """Those that shipped runs and the documentation's begin from."""
    Path("path/to").mkdir(parents=True)
    for path in ("c", "path/to/model.ckpt-1000"):
        Path(f"{path}.index").touch()


def warnings(*files: str, lines: tuple[str, ...] = (), **fields: object) -> list[str]:
    request = Request(command="train", model_dir="new", gin_file=files, gin_param=lines)
    return configuration.check(dataclasses.replace(request, **fields))


@pytest.mark.parametrize("run", shipped("runs"))
def test_shipped_runs_are_clean(run: str) -> None:
    needed = {"init_checkpoint": "'c'", "MIXTURE_NAME": "'cldr'"}
    text = Path(gin_files.folder(), run).read_text(encoding="utf-8")
    lines = tuple(f"{name} = {value}" for name, value in needed.items() if f"{name} =" in text)
    assert warnings(run, lines=lines) == []


def test_shipped_models_layouts_and_routers_are_clean() -> None:
    for model in shipped("models"):
        assert warnings(model, "layouts/cpu_2x2.gin", "tasks/cldr.gin") == [], model
        for router in shipped("models/routers"):
            assert warnings(model, router, "layouts/cpu_2x2.gin", "tasks/cldr.gin") == []
    for layout in shipped("layouts"):
        assert warnings("models/hierarchical_tiny.gin", layout, "tasks/cldr.gin") == [], layout


def test_a_users_copy_of_a_router_is_clean_too() -> None:
    for router in shipped("models/routers"):
        source = Path(gin_files.folder(), router)
        Path("copy.gin").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        model = "one_level" if "flat/" in source.read_text(encoding="utf-8") else "hierarchical"
        files = (f"models/{model}_tiny.gin", "copy.gin", "layouts/cpu_2x2.gin", "tasks/cldr.gin")
        assert warnings(*files) == [], router


def copy_all() -> None:
    """Copies every shipped file to the current folder, where gin finds it first."""
    shutil.copytree(gin_files.folder(), ".", dirs_exist_ok=True)


def test_copies_of_shipped_files_are_clean() -> None:
    copy_all()
    for run in ("runs/default.gin", "runs/default_one_level.gin", "runs/tiny.gin"):
        assert warnings(run) == [], run


def test_copies_are_clean_but_for_what_was_edited() -> None:
    copy_all()
    size = Path("models/_size_tiny.gin")
    text = size.read_text(encoding="utf-8")
    # Another value, and a macro that the shipped file does not have.
    edited = re.sub("^d_ff_wide = .*", "d_ff_wide = 7\nd_fff = 3", text, flags=re.MULTILINE)
    size.write_text(edited, encoding="utf-8")
    assert [each.partition(": ")[2] for each in warnings("runs/tiny.gin")] == [
        "nothing reads the macro d_ff_wide; did you mean 'd_ff'?",
        "nothing reads the macro d_fff; did you mean 'd_ff'?",
    ]


_LEVEL = ["name", "num_experts", "router", "group_size"]
_LEVEL += ["capacity_factor_train", "capacity_factor_eval"]

# What a run leaves unused of the shipped files, if a user had written them.
UNUSED = {
    "runs/tiny.gin": {"models/_size_tiny.gin": ["d_ff_wide", "num_experts"]},
    "runs/default.gin": {"models/_size_tiny.gin": ["d_ff_wide", "num_experts"]},
    "runs/default_one_level.gin": {
        "models/_size_tiny.gin": ["d_ff_wide"],
        # Which it replaces by one level.
        "models/_hierarchical.gin": [
            name
            for scope in ("outer", "inner")
            for name in [
                *(f"{scope}/hmoe.Level.{each}" for each in _LEVEL),
                f"{scope}/hmoe.TopKRouter.k",
            ]
        ],
    },
}


@pytest.mark.parametrize("run", UNUSED)
def test_what_is_unused_of_shipped_files_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    copy_all()
    monkeypatch.setattr(gin_reading, "_files", lambda folders: [])
    found: dict[str, list[str]] = {}
    for each in warnings(run):
        place, _, problem = each.partition(": ")
        name = re.search(r"the macro (\w+)|so (\S+) has no effect", problem)
        path = os.path.relpath(place.rpartition(":")[0])
        found.setdefault(path, []).append(name[1] or name[2])
    assert found == UNUSED[run]


def snippets() -> list[str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [
        block
        for page in pages
        for block in re.findall(
            r"^```gin\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    ]
    examples = sorted((ROOT / "docs" / "examples").glob("*.gin"))
    return [*blocks, *(each.read_text(encoding="utf-8") for each in examples)]


def test_what_the_documentation_shows_is_clean() -> None:
    assert len(snippets()) > 30
    for text in snippets():
        Path("page.gin").write_text(text, encoding="utf-8")
        assert warnings("runs/default.gin", "page.gin") == [], text


def test_t5s_files_are_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    # As a user's own, whose every binding and macro would be warned of.
    shutil.copytree(gin_files.search_folders([])[0], ".", dirs_exist_ok=True)
    monkeypatch.setattr(gin_reading, "_files", lambda folders: [])
    files = (
        "dataset.gin",
        "models/t5.1.1.small.gin",
        "learning_rate_schedules/rsqrt_no_ramp_down.gin",
        "objectives/span.gin",
    )
    lines = ("utils.tpu_mesh_shape.tpu_topology = '2x2'",)
    assert warnings(*files, lines=lines) == []


def own_module(monkeypatch: pytest.MonkeyPatch, name: str, text: str = "x = 1\n") -> None:
    Path(f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(os.getcwd())


@pytest.mark.parametrize(
    "line",
    [
        # A scope that a module further down opens.
        "mine/hmoe.Level.group_size = 8",
        # A gate that `hmoe.Gate()` in a user's own code builds.
        "hmoe.Gate.jitter = 0.1",
        # A class or function of the user's own, in a scope near one that is known.
        "iner/foo.x = 3",
        # What `gin.query_parameter("%my_flag")` reads.
        "my_flag = 3",
    ],
)
def test_code_of_a_users_own_may_build_open_and_read(
    monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    own_module(monkeypatch, "package_of_mine")
    assert len(warnings("runs/tiny.gin", lines=(line,))) == 1
    own = {"module_import": ("package_of_mine",), "strict": True}
    assert warnings("runs/tiny.gin", lines=(line,), **own) == []
    Path("imports.gin").write_text("import package_of_mine\n", encoding="utf-8")
    assert warnings("runs/tiny.gin", "imports.gin", lines=(line,), strict=True) == []


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("train_stepz = 3", "nothing reads the macro train_stepz; did you mean 'train_steps'?"),
        (
            "outter/hmoe.Level.num_experts = 4",
            "no hmoe.Level of this run is built in the scope 'outter', so "
            "outter/hmoe.Level.num_experts has no effect; did you mean 'outer'?",
        ),
        (
            "encodr/transformer.make_layer_stack.num_layers = 4",
            "no transformer.make_layer_stack of this run is built in the scope 'encodr', so "
            "encodr/transformer.make_layer_stack.num_layers has no effect; did you mean 'encoder'?",
        ),
    ],
)
def test_slips_are_found_beside_code_of_a_users_own(
    monkeypatch: pytest.MonkeyPatch, line: str, warning: str
) -> None:
    own_module(monkeypatch, "own_tasks")
    found = warnings("runs/tiny.gin", lines=(line,), module_import=("own_tasks",))
    assert found == [f"--gin_param {line!r}: {warning}"]
    own_module(monkeypatch, "own_names", "'encodr', 'outter', '%train_stepz'\n")
    assert warnings("runs/tiny.gin", lines=(line,), module_import=("own_names",)) == []


def test_names_in_modules_that_own_modules_import_are_no_slips(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    os.makedirs("own_package/inside")
    for path, text in {
        "own_package/__init__.py": "from . import building\nimport os, numpy, no_such_module",
        "own_package/building.py": "from .inside.scopes import x\nfrom own_beside import y",
        "own_package/inside/__init__.py": "",
        "own_package/inside/scopes.py": "import own_package\nwith gin.config_scope('outter'): x = 1",
        "own_beside.py": "gin.query_parameter('%train_stepz')",
    }.items():
        Path(path).write_text(f"{text}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(os.getcwd())
    lines = ("outter/hmoe.Level.group_size = 8", "train_stepz = 3")
    assert len(warnings("runs/tiny.gin", lines=lines)) == 2
    assert warnings("runs/tiny.gin", lines=lines, module_import=("own_package",)) == []


def test_a_macro_of_a_binding_that_another_replaces_is_read() -> None:
    text = "include 'runs/tiny.gin'\nmy_steps = 3\nutils.run.train_steps = %my_steps\n"
    Path("mine.gin").write_text(text, encoding="utf-8")
    assert warnings("mine.gin", lines=("utils.run.train_steps = 4",)) == []


@pytest.mark.parametrize("flag", ["model_dir", "tpu", "tpu_job_name", "tpu_zone", "gcp_project"])
def test_bindings_in_whose_place_a_flag_stands(flag: str) -> None:
    line = f"utils.run.{flag} = 'x'"
    assert warnings("runs/tiny.gin", lines=(line,)) == [
        f'--gin_param "{line}": utils.run.{flag} has no effect; use --{flag}'
    ]


LAYOUT = "utils.run.layout_rules = 'outer_batch:rows;batch:cols;my_dim:rows'"


def test_dimensions_of_a_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no tensor has a dimension 'my_dim'"):
        warnings("runs/tiny.gin", lines=(LAYOUT,))
    own_module(monkeypatch, "own_layers")
    assert warnings("runs/tiny.gin", lines=(LAYOUT,), module_import=("own_layers",)) == []


def test_devices_may_be_a_tuple() -> None:
    assert warnings("runs/tiny.gin", lines=("utils.run.mesh_devices = ('', '', '', '')",)) == []


def test_code_of_a_users_own_may_open_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("mine/hmoe.Level.group_size = 8", "hmoe.Gate.jitter = 0.1")
    assert len(warnings("runs/tiny.gin", lines=lines)) == 2
    Path("opens.py").write_text("with gin.config_scope('mine'): pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(os.getcwd())
    assert warnings("runs/tiny.gin", lines=lines, module_import=("opens",)) == []


def test_scopes_of_code_references_and_macros() -> None:
    lines = (
        "encoder/hmoe.MoELayer.moe = @mine/hmoe.HierarchicalMoE()",
        "mine/hmoe.HierarchicalMoE.levels = [@hmoe.Level()]",
        "mine/hmoe.Level.name = 'one'",
        "mine/hmoe.Level.num_experts = 4",
        "mine/hmoe.Level.router = %my_router",
        "my_router = @hmoe.SwitchRouter()",
        # Gin evaluates a macro in a scope of its name.
        "my_router/hmoe.SwitchRouter.retries = 1",
        "mine/hmoe.SwitchRouter.retries = 1",
    )
    assert warnings("runs/tiny.gin", lines=lines) == [
        "--gin_param 'mine/hmoe.SwitchRouter.retries = 1': no hmoe.SwitchRouter of this run is "
        "built in the scope 'mine', so mine/hmoe.SwitchRouter.retries has no effect"
    ]


def test_classes_are_those_that_gin_knows() -> None:
    known = {
        name
        for name, each in vars(configurables).items()
        if inspect.isclass(each) and each.__module__.startswith("hmoe.")
    }
    assert set(scopes.CLASSES) == known


@pytest.mark.parametrize("name", names.ARGUMENTS)
def test_arguments_are_those_of_the_class(name: str) -> None:
    settings = {
        "Session": session_settings.SessionSettings,
        "TrainingData": training_data.TrainingData,
        "FormatSettings": cldr_formats.FormatSettings,
        "NameSettings": cldr_names.NameSettings,
    }
    cls = settings[name] if name in settings else getattr(configurables, name)
    fields = tuple(each.name for each in dataclasses.fields(cls) if each.init)
    assert names.ARGUMENTS[name] == fields


@pytest.mark.parametrize("name", scopes.REQUIRED)
def test_required_arguments_are_those_of_the_class(name: str) -> None:
    cls = getattr(configurables, name)
    if not dataclasses.is_dataclass(cls):
        assert scopes.REQUIRED[name] == ("moe",)
        return
    needed = {
        field.name
        for field in dataclasses.fields(cls)
        if field.init and field.default is REQUIRED and field.default_factory is REQUIRED
    }
    assert set(scopes.REQUIRED[name]) == needed
