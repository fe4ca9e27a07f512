"""Named dimensions, the mesh that splits them, and random numbers that do not depend on it."""
