"""Gin files: where they are found, and what is said of mistakes in them."""

from __future__ import annotations

import os
import types
from pathlib import Path

import gin
import pytest

import hmoe.t5
import hmoe.t5.sessions.session_settings  # noqa: F401  (registers hmoe.Session)
from hmoe.startup import gin_files
from hmoe.t5.commands import gin_config


@pytest.fixture(autouse=True)
def _clean():
    gin.clear_config()
    yield
    gin.clear_config()


def test_file_not_found_names_the_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        gin_config.read(["models/hierarchical_tin.gin"], [], [str(tmp_path)])
    import t5.models

    t5_folder = os.path.join(os.path.dirname(t5.models.__file__), "gin")
    assert str(error.value).startswith(
        f"gin file 'models/hierarchical_tin.gin' not found in {os.getcwd()}, {tmp_path}, "
        f"{t5_folder}, {gin_files.folder()}; did you mean 'models/hierarchical_tiny.gin'"
    )


def test_own_folder_comes_before_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "mine.gin").write_text("utils.run.train_steps = 7")
    gin_config.read(["mine.gin"], ["utils.run.save_checkpoints_steps = 3"], [str(tmp_path)])
    assert gin_config.bound("run.train_steps") == 7
    assert gin_config.bound("run.save_checkpoints_steps") == 3
    assert gin_config.bound("run.keep_checkpoint_max", "unbound") == "unbound"


def test_values_behind_macros_and_constants() -> None:
    gin.constant("test_gin_config.STEPS", 5)
    lines = [
        "run.mode = %my_mode",
        "my_mode = %its_mode",
        "its_mode = 'infer'",
        "run.train_steps = %test_gin_config.STEPS",
        "run.sequence_length = {'inputs': %length, 'targets': 3}",
        "length = 2",
        "score_from_strings.targets = %targets",
        "targets = ['a', 'b']",
        "run.skip_seen_data = %skip",
        "skip = False",
        "infer_model.decode_fn = %decode",
        "decode = @decode_from_file",
    ]
    gin_config.read([], lines)
    expected = {
        "run.mode": "infer",
        "run.train_steps": 5,
        "run.sequence_length": {"inputs": 2, "targets": 3},
        "score_from_strings.targets": ["a", "b"],
        "run.skip_seen_data": False,
        "decode_from_file.repeats": None,
    }
    assert {name: gin_config.value(name) for name in expected} == expected
    assert gin_config.value("decode_from_file.repeats", 1) == 1
    assert "decode_from_file" in str(gin_config.value("infer_model.decode_fn"))


def test_a_folder_on_the_path_may_be_called_like_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    gin_config.read(["runs/tiny.gin"], [])
    assert gin_config.bound("run.train_steps", None) is not None


def test_unknown_argument_names_those_that_come_close() -> None:
    with pytest.raises(ValueError) as error:
        gin_config.read([], ["hmoe.Level.num_expert = 4"])
    text = str(error.value)
    assert "Configurable 'hmoe.Level' doesn't have a parameter named 'num_expert'." in text
    assert "did you mean 'num_experts'?\n  It has: name, num_experts, " in text


def test_unknown_configurable_names_those_that_come_close() -> None:
    with pytest.raises(ValueError) as error:
        gin_config.read([], ["hmoe.TopkRouter.k = 1"])
    text = str(error.value)
    assert "No configurable matching 'hmoe.TopkRouter'" in text
    assert "did you mean 'hmoe.TopKRouter'" in text


def test_code_of_a_users_own_is_what_gin_knows_beside_the_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = [
        (name, each)
        for name, each in gin_config.gin_internals._REGISTRY.items()
        if not each.wrapped.__module__.startswith("tests.")
    ]
    registry = types.SimpleNamespace(items=lambda: known)
    monkeypatch.setattr(gin_config.gin_internals, "_REGISTRY", registry)
    assert not gin_config.knows_own_code()

    def of_my_own() -> None: ...

    known.append(("of_my_own", types.SimpleNamespace(wrapped=of_my_own)))
    assert gin_config.knows_own_code()


def test_unknown_names_can_be_passed_over() -> None:
    gin_config.read([], ["nobody.knows = 1"], skip_unknown=["nobody"])
    gin_config.read([], ["nobody.knows = 1"], skip_unknown=True)
    gin_config.read([], ["SentencePieceVocabulary.x = 1"])


def test_bound_leaves_references_alone() -> None:
    gin.parse_config("utils.run.mesh_shape = @utils.tpu_mesh_shape()\nutils.run.mode = 'eval'")
    assert gin_config.bound("run.mode") == "eval"
    assert "tpu_mesh_shape" in str(gin_config.bound("run.mesh_shape"))
    assert gin_config.bound("run.train_steps", 3) == 3


def test_malformed_line() -> None:
    with pytest.raises(ValueError) as error:
        gin_config.read([], ["utils.run.train_steps 7"])
    assert str(error.value).startswith(
        "--gin_param 'utils.run.train_steps 7': Couldn't parse statement, expected ':' or '='."
    )
