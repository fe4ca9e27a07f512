"""What traces of routing say of a model; knows neither TensorFlow nor T5.

`traces` reads and writes who went where. `routed` lists the choices that reached an expert at the
end of a layer, from which the other modules count.
"""
