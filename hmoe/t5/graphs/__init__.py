"""Builds the graph of each mode of a T5: training, evaluation, prediction and scoring."""
