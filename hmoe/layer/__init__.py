"""The mixture layer: its configuration and its recursion over levels."""
