"""One HTML page about a run: its curves, and what its experts learned. Loads no TensorFlow."""
