"""Bindings that nothing is built with are found, and no others."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from pathlib import Path

import pytest

from hmoe.config import REQUIRED
from hmoe.startup import configuration, gin_files
from hmoe.startup.gin_checks import names, scopes
from hmoe.startup.request import Request
from hmoe.t5 import configurables
from hmoe.t5.data import cldr_formats, cldr_names
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
    # As a user's own copies, whose every binding and macro would be warned of.
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
        found = warnings(
            f"models/{model}_tiny.gin", "copy.gin", "layouts/cpu_2x2.gin", "tasks/cldr.gin"
        )
        # The switch router has bindings for models of one and of two levels.
        assert all(re.search(r"/hmoe.Level.router has no effect", each) for each in found), router


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


def test_t5s_files_are_clean() -> None:
    t5 = gin_files.search_folders([])[0]
    assert (
        warnings(
            "dataset.gin",
            "models/t5.1.1.small.gin",
            "learning_rate_schedules/rsqrt_no_ramp_down.gin",
            "objectives/span.gin",
            lines=("utils.tpu_mesh_shape.tpu_topology = '2x2'",),
        )
        == []
    ), t5


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
