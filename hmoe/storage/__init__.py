"""Files that are there whole or not at all: checkpoints and their manifests, and small files."""
