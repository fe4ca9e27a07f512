"""The `hmoe` command, before TensorFlow is loaded."""
