"""Keeps the part of gin's configuration that training used, as T5's command does."""

from __future__ import annotations

import os

import gin

from hmoe.compat.stack import tf
from hmoe.storage import atomic_write

OPERATIVE_CONFIG = "operative_config.gin"


def write(model_dir: str) -> None:
    """Writes the configuration to a folder.

    Raises:
      OSError: the file cannot be written.
    """
    text = gin.operative_config_str()
    atomic_write.write_text(os.path.join(model_dir, OPERATIVE_CONFIG), text)


def show(writer: tf.summary.FileWriter, step: int) -> None:
    """Writes the configuration for TensorBoard.

    Args:
      writer: writes to TensorBoard.
      step: the step that it belongs to.
    """
    metadata = tf.SummaryMetadata()
    metadata.plugin_data.plugin_name = "text"
    metadata.plugin_data.content = b"{}"
    summary = tf.Summary()
    summary.value.add(
        tag="gin/operative_config",
        tensor=tf.make_tensor_proto(gin.markdown(gin.operative_config_str())),
        metadata=metadata,
    )
    writer.add_summary(summary, step)
