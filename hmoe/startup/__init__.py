"""What can be read, checked and printed before TensorFlow is loaded."""
