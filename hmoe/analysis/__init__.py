"""What traces of routing say of a model; knows neither TensorFlow nor T5.

`traces` reads and writes who went where; `routed` is the choices of a layer that reached an expert at
its end, from which the other modules count.
"""
