"""Every gin file parses, finalizes, says what it is, and describes a model that fits its layout."""

from __future__ import annotations

import os
import re

import gin
import pytest

from hmoe.startup import gin_files
from tests.gin import configs

FOLDERS = ("models", "models/routers", "layouts", "tasks", "runs")
MODELS, LAYOUTS, RUNS = (configs.names(folder) for folder in ("models", "layouts", "runs"))
CPU_LAYOUTS = [name for name in LAYOUTS if "v3-" not in name]
ALL = [name for folder in FOLDERS for name in configs.names(folder)]
HIDDEN = [name for folder in FOLDERS for name in configs.names(folder, hidden=True)]

NEEDS_A_TASK = 'utils.run.sequence_length = {"inputs": 32, "targets": 32}'


def test_no_folder_is_left_out():
    found = {
        os.path.relpath(folder, gin_files.folder())
        for folder, _, names in os.walk(gin_files.folder())
        if any(name.endswith(".gin") for name in names)
    }
    assert found == set(FOLDERS)


@pytest.mark.parametrize("name", ALL)
def test_parses_and_finalizes(name):
    # Files of routers take sizes from the model that they stand beside.
    beside = ["models/hierarchical_tiny.gin"] if name.startswith("models/routers/") else []
    with configs.parsed([*beside, name], _given(name)):
        assert gin.config_is_locked()


@pytest.mark.parametrize("name", ALL + HIDDEN)
def test_header_says_what_is_provided_and_what_may_be_overridden(name):
    text = configs.text(name)
    assert text.startswith("#")
    header = re.match(r"(#[^\n]*\n)+", text).group()
    assert "Provides:" in header
    assert re.search(r"[Mm]ay be overridden|Needs:", header)
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("layout", CPU_LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_model_fits_layout(model, layout, tmp_path):
    """The description is made and checked: no warning, and no word of what cannot be split."""
    bindings = [NEEDS_A_TASK, "utils.run.batch_size = 32", "utils.run.train_steps = 1"]
    with configs.parsed([model, layout], bindings):
        settings = configs.described(str(tmp_path)).settings
        assert settings.outer_batch_size == _num_rows(settings.mesh_shape)
        assert str(settings.variable_dtype.master_dtype.name) == "float32"
        if "dense" not in model:
            assert gin.query_parameter("hmoe.HierarchicalMoE.inserted_outer_batch") == (
                settings.outer_batch_size
            )
        assert settings.model_type == ("delimited_lm" if "_lm." in model else "bitransformer")


def _num_rows(mesh_shape) -> int:
    return {dim.name: dim.size for dim in mesh_shape.dims}.get("rows", 1)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "v3-" in name])
def test_tpu_layout_has_the_cores_of_its_name(name):
    with configs.parsed([name]):
        mesh = configs.mtf.convert_to_shape(gin.query_parameter("utils.run.mesh_shape"))
        rules = configs.mtf.convert_to_layout_rules(gin.query_parameter("utils.run.layout_rules"))
        rows, cols = (mesh.get_dim_by_name(axis).size for axis in ("rows", "cols"))
        assert mesh.size == int(re.search(r"v3-(\d+)", name).group(1))
        assert gin.query_parameter("tpu_estimator_model_fn.outer_batch_size") == rows
        assert gin.query_parameter("hmoe.HierarchicalMoE.inserted_outer_batch") == rows
        axes = {
            name: rules.tensor_dimension_to_mesh_axis(configs.mtf.Dimension(name, 64), mesh)
            for name in ("expert_x", "batch", "experts", "expert_y", "outer_batch")
        }
        assert axes == {"expert_x": 0, "batch": 0, "experts": 0, "expert_y": 1, "outer_batch": 1}
        header = configs.text(name)
        assert f"multiple of {cols}, of inner experts" in header
        assert f"multiple of {rows}; the batch size a multiple of {mesh.size}." in header


@pytest.mark.parametrize("name", RUNS)
def test_run_is_complete(name, tmp_path):
    """A run needs nothing more, but for what its header tells the user to give."""
    with configs.parsed([name], _given(name)):
        settings = configs.described(str(tmp_path)).settings
        mesh = settings.mesh_shape.size
        assert settings.batch_size % mesh == 0
        assert settings.optimizer is not None
        assert settings.learning_rate_schedule is not None
        # A resume goes on with the examples that would have come next.
        assert gin.query_parameter("run.skip_seen_data") is True
        assert gin.query_parameter("mesh_train_dataset_fn.seed") == 0


def _given(name):
    """What the header of a run says must be set, with its example's values."""
    found = re.search(r"Must be set[^\n]*\n((?:#   [^\n]*\n)+)", configs.text(name))
    lines = found.group(1).splitlines() if found else []
    return [line[1:].strip() for line in lines]
