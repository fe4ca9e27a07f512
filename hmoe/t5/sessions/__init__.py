"""Runs graphs: sessions, hooks, checkpoints, and the metrics of a run."""
