"""What a run costs, before it runs: multiplications, bytes over each mesh axis, and memory.

`counting` walks a named-dimension graph on a mesh of shapes; `formulas` computes the share of the
mixture layer in plain Python.
"""
