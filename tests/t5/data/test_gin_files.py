from __future__ import annotations

import os

import gin
import pytest
import t5.models.mesh_transformer
from mesh_tensorflow.transformer import utils

from hmoe.startup import gin_files
from hmoe.t5.data import cldr
from hmoe.t5.data.vocabularies import BYTES

FOLDER = os.path.join(gin_files.folder(), "tasks")


@pytest.mark.parametrize("task", ["cldr", "cldr_formats", "cldr_names"])
def test_task_file_gives_t5_all_it_needs(gin_config, task):
    gin_config.parse_config_file(os.path.join(FOLDER, f"{task}.gin"))
    gin_config.finalize()
    assert gin.query_parameter("%MIXTURE_NAME") == task
    lengths = gin.query_parameter("utils.run.sequence_length")
    assert all(lengths[side] >= cldr.SEQUENCE_LENGTH[side] for side in ("inputs", "targets"))
    dataset_fns = [
        gin.query_parameter(f"utils.run.{mode}_dataset_fn").scoped_configurable_fn
        for mode in ("train", "eval")
    ]
    assert [fn.__name__ for fn in dataset_fns] == ["mesh_train_dataset_fn", "mesh_eval_dataset_fn"]
    evaluated = dataset_fns[1](sequence_length=lengths, dataset_split="validation")
    names = {"cldr": ["cldr_formats", "cldr_names"]}.get(task, [task])
    assert [dataset.name for dataset in evaluated] == names
    assert t5.models.mesh_transformer.get_vocabulary() == (BYTES, BYTES)
    assert utils.inputs_vocabulary((BYTES, BYTES)).vocab_size == 359


@pytest.mark.parametrize("name", sorted(os.listdir(FOLDER)))
def test_header_says_what_is_provided_and_what_may_be_overridden(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        header = file.read().split("\n\n")[0]
    assert "# Provides: " in header
    assert "# May be overridden:" in header
