"""How tokens are moved on one device: by index, or by multiplying with one-hot tensors.

Both compute the same from the same assignment. An engine is a module with the functions
`places`, `to_slots`, `to_tokens`, `to_slots_weighted` and `choices_to_slots`, on
TensorFlow's tensors of one device; `hmoe.operations` calls them.
"""
