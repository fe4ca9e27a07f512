"""What can be checked and printed before TensorFlow is loaded."""
