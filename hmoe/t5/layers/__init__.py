"""The layers that stand in a T5."""
