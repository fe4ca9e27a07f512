"""From named-dimension graphs to TensorFlow: mesh implementations with small graphs."""
