"""The experts at the end of the hierarchy, and their single variables."""
