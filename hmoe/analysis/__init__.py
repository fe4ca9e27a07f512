"""What traces of routing say of a model; knows neither TensorFlow nor T5.

`traces` reads and writes who went where.
"""
