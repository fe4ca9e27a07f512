"""Upstream's gin arguments reach the settings; variable filters select what is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.t5 import tiny


def test_gin_arguments_of_upstream_reach_the_settings(tmp_path: Path) -> None:
    bindings = [
        "tpu_estimator_model_fn.outer_batch_size = 4",
        "tpu_estimator_model_fn.tpu_summaries = True",
        "tpu_estimator_model_fn.model_info_file = 'info.txt'",
    ]
    settings = tiny.make(tmp_path, bindings=bindings).settings
    assert settings.outer_batch_size == 4
    assert settings.tpu_summaries is True
    assert settings.model_info_file == "info.txt"
    assert settings.batch_size == tiny.BATCH
    assert settings.mesh_devices == [""]


def test_filter_that_leaves_nothing_to_train(tmp_path: Path) -> None:
    estimator = tiny.make(tmp_path, variable_filter="^nothing$")
    with pytest.raises(ValueError) as error:
        estimator.train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    text = str(error.value)
    assert text.startswith("utils.run.variable_filter = '^nothing$' leaves none of the ")
    assert text.endswith(" variables to train; the first is shared/embedding")


def test_filter_of_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        tiny.make(tmp_path, variable_filter=3).train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    assert str(error.value) == (
        "utils.run.variable_filter must be None, a regular expression, or a function of a "
        "variable; got 3"
    )


def test_filter_trains_only_what_it_names(tmp_path: Path) -> None:
    data = tiny.input_fn(tiny.ids(16))
    tiny.make(tmp_path, variable_filter="^decoder/").train(data, max_steps=1)
    before = tiny.weights(tmp_path)
    tiny.make(tmp_path, variable_filter="^decoder/").train(data, max_steps=2)
    after = tiny.weights(tmp_path)
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert {name for name in changed if not name.startswith("decoder/")} == {"global_step"}
    assert "decoder/logits/kernel" in changed


def test_no_optimizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        tiny.make(tmp_path, optimizer=None).train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    assert str(error.value) == (
        "training needs utils.run.optimizer; in gin, for example: "
        "utils.run.optimizer = @optimize.AdafactorOptimizer"
    )
