"""Runs a graph: sessions, hooks, checkpoints and the metrics of a run."""
