"""What traces of routing say of a model; knows neither TensorFlow nor T5.

`traces` reads and writes who went where. `routed` lists the choices that reached an expert at the
end of a layer, and `token_leaves` the leaves of each token; from these the other modules count:

    load              how evenly experts are loaded, and what is dropped
    information       how much each level's experts know of a label
    specialization    how far leaves specialize in labels and in tokens
    coactivation      which leaves process the same tokens
    saturation        how many choices are those of another checkpoint
    paths             where the tokens of a leaf go in another layer
    tree              what each expert processes, and its typical tokens
    retention         which experts to keep for a label
    retention_scores  the loss with some experts kept, as a file and as tables
"""
