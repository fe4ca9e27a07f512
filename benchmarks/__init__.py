"""How fast is the layer, beside its peers? `make bench` runs `python -m benchmarks`."""
