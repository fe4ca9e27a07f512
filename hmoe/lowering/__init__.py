"""From named-dimension graphs to TensorFlow: mesh implementations with small graphs.

The door is the module `lower`: `lower.make_mesh` makes the implementation of a mesh, and
`lower.lower` lowers a graph onto it. `recording` notes what devices send when that is done. All
other modules serve these, and code outside of this folder needs none of them.

- `placement`: slices of a mesh on CPUs and GPUs; equal slices on one device are one tensor.
- `op_replay`: records the operations that a function builds for one slice, and repeats them for
  others.
- `function_keys`: which functions build the same operations.
- `graph_hooks`: hooks on private parts of TensorFlow and Mesh TensorFlow.

The tricks that make graphs small (repeating operations, sharing constants, aligning slices by fewer
operations) change no bit of what is computed. A mesh that is made with `reuse_graph=False` does
without them.
"""
