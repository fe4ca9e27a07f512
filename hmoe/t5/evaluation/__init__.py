"""Evaluates checkpoints, answers lines, and reports."""
