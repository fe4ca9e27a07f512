"""The `hmoe` command, up to the point where TensorFlow is loaded."""
