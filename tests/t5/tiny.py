"""A T5 small enough for tests, and ids to train it on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np
import seqio
from mesh_tensorflow.transformer import utils

import hmoe.t5  # noqa: F401  (registers what gin files name)
from hmoe import compat
from hmoe.compat.stack import mtf, tf
from hmoe.t5.commands import gin_config, t5_run
from hmoe.t5.sessions import session_settings
from hmoe.t5.sessions.estimator import SessionEstimator

compat.behave_like_v1()

BATCH, LENGTH = 8, 8
VOCABULARY = seqio.ByteVocabulary(extra_ids=100)
SIZES = (
    "d_model = 16",
    "d_ff = 24",
    "d_ff_wide = 24",
    "num_blocks = 1",
    "num_heads = 2",
    "d_kv = 8",
    "group_size = 16",
    "num_outer_experts = 2",
    "num_inner_experts = 2",
    "num_experts = 4",
)
#: Mesh, layout rules, slices of the mesh, outer batch; those not shipped begin as one device.
LAYOUTS = {
    "one_device": ("", "", 1, None),
    "dense_1x4": ("model:1;batch:4", "batch:batch;d_ff:model;heads:model;vocab:model", 4, None),
    "dense_2x1": ("model:2;batch:1", "batch:batch;d_ff:model;heads:model;vocab:model", 2, None),
    "cpu_2x2": (
        "rows:2;cols:2",
        "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows",
        4,
        2,
    ),
}


def make(
    model_dir: Any,
    model: str = "dense_tiny",
    layout: str = "one_device",
    bindings: Sequence[str] = (),
    batch_size: int = BATCH,
    lines: list[str] | None = None,
    **settings: Any,
) -> SessionEstimator:
    """An estimator of a tiny T5, from the shipped gin files with small sizes.

    What it tells the user is appended to `lines`.
    """
    gin.clear_config()
    mesh, rules, devices, _ = LAYOUTS[layout]
    file = "one_device" if layout.startswith("dense_") else layout
    gin_config.read([f"models/{model}.gin", f"layouts/{file}.gin"], [*SIZES, *bindings])
    told = [] if lines is None else lines
    arguments: dict[str, Any] = {
        "model_dir": str(model_dir),
        "batch_size": batch_size,
        "sequence_length": {"inputs": LENGTH, "targets": LENGTH},
        "autostack": True,
        "learning_rate_schedule": 0.01,
        "keep_checkpoint_max": None,
        "save_checkpoints_steps": 1000,
        "optimizer": mtf.optimize.AdafactorOptimizer,
        "predict_fn": None,
        "variable_filter": None,
        "ensemble_inputs": None,
        "init_checkpoint": None,
        "mesh_devices": [""] * devices,
        "score_in_predict_mode": False,
        **settings,
    }
    return t5_run.make_estimator(
        session_settings.SessionSettings(say=told.append, log_every_steps=1),
        model_type="bitransformer",
        vocabulary=VOCABULARY,
        mesh_shape=mtf.convert_to_shape(mesh),
        layout_rules=mtf.convert_to_layout_rules(rules),
        use_tpu=None,
        tpu_job_name=None,
        iterations_per_loop=1,
        cluster=None,
        **arguments,
    )


def ids(num_rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random sentences with their end and padding: int32 [num_rows, LENGTH] each."""
    draws = np.random.RandomState(seed)
    features = {}
    for name in ("inputs", "targets"):
        rows = draws.randint(3, 259, [num_rows, LENGTH]).astype(np.int32)
        for row in rows:
            end = draws.randint(2, LENGTH)
            row[end] = 1
            row[end + 1 :] = 0
        features[name] = rows
    return features


def input_fn(features: dict[str, np.ndarray], batch_size: int = BATCH, skip: int = 0) -> Any:
    """A function that gives batch after batch of the rows, from the batch `skip` on."""

    def dataset(params: dict[str, Any]) -> tf.data.Dataset:
        del params
        return tf.data.Dataset.from_tensor_slices(features).batch(batch_size).skip(skip)

    return dataset


def export(estimator: SessionEstimator, folder: Path) -> str:
    """The folder of the model, exported into `folder` as `hmoe export` does it."""
    utils.export_model(
        estimator,
        str(folder),
        VOCABULARY,
        estimator.settings.sequence_length,
        "bitransformer",
        batch_size=BATCH,
    )
    (exported,) = folder.iterdir()
    return str(exported)


def text(ids: np.ndarray) -> str:
    """The text of ids that a model predicted."""
    return VOCABULARY.decode([int(i) for i in ids])


def answers_of_export(folder: str, *batches: list[str]) -> list[list[str]]:
    """What an exported model answers to each batch of lines."""
    with tf.Graph().as_default(), tf.Session() as session:
        loaded = tf.saved_model.load(session, ["serve"], folder)
        signature = loaded.signature_def["serving_default"]
        return [
            [
                answer.decode("utf-8")
                for answer in session.run(
                    signature.outputs["outputs"].name, {signature.inputs["inputs"].name: lines}
                )
            ]
            for lines in batches
        ]


def rows_of_texts(texts: Sequence[str]) -> np.ndarray:
    """int32 [BATCH, LENGTH]: ids of the texts, and rows of padding."""
    rows = np.zeros([BATCH, LENGTH], np.int32)
    for row, text in zip(rows, texts):
        row[: len(text) + 1] = [*VOCABULARY.encode(text), 1]
    return rows


def curves(model_dir: Any) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl."""
    with open(os.path.join(str(model_dir), "metrics.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def weights(model_dir: Any) -> dict[str, np.ndarray]:
    """All variables of the newest checkpoint."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(model_dir)))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


__all__ = ["BATCH", "LENGTH", "VOCABULARY", "curves", "ids", "input_fn", "make", "weights"]
