"""Evaluates checkpoints, decodes lines of text, and reports the results."""
