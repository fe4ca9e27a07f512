"""The settings of a T5 that gin describes, taken as a run of `hmoe train` hands them on."""

from __future__ import annotations

import tempfile

import gin
import seqio

import hmoe.t5  # noqa: F401  (registers what gin files name)
from hmoe.t5.commands import gin_config
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.graphs.model_settings import ModelSettings


def from_gin(files: list[str], bindings: list[str]) -> ModelSettings:
    """Returns the settings that gin files and bindings describe, with bytes as vocabulary."""
    gin.clear_config()
    gin_config.read(files, bindings)
    taken = []

    def take(estimator: object, *unused: object, **more: object) -> None:
        taken.append(estimator.settings)  # type: ignore[attr-defined]

    vocabulary = seqio.ByteVocabulary(extra_ids=100)
    with tempfile.TemporaryDirectory() as model_dir:
        T5Run(
            mode="train",
            model_dir=model_dir,
            say=lambda line: None,
            arguments={
                "train_model_fn": take,
                "vocabulary": (vocabulary, vocabulary),
                "train_dataset_fn": lambda: None,
            },
        ).start()
    return taken[0]
