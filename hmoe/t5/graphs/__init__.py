"""Builds the graph of each mode of a T5."""
