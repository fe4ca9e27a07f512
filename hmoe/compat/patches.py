"""The table of everything in other packages that is replaced, added, or read though it is private.

Whatever replaces one of these goes through its entry here; nothing else in this package sets an
attribute of another package's modules or objects. Importing this module imports none of them.
"""

from __future__ import annotations

from typing import TypedDict

from hmoe.compat.internals import Internal, Patch


class _Release(TypedDict):
    """A package with the releases that the entries were written against."""

    package: str
    versions: str


TENSORFLOW: _Release = {"package": "tensorflow", "versions": "2.15.1 and 2.21.0"}
MESH_TENSORFLOW: _Release = {"package": "mesh_tensorflow", "versions": "0.1.21"}
T5: _Release = {"package": "t5", "versions": "0.9.4"}
GIN: _Release = {"package": "gin", "versions": "0.5.0"}
SEQIO: _Release = {"package": "seqio", "versions": "0.0.18.dev20250227 (seqio-nightly)"}
BABEL: _Release = {"package": "babel", "versions": "2.18.0"}


# Replaced for as long as a context is open.

CREATE_OPERATION = Patch(
    **TENSORFLOW,
    module="tensorflow.python.framework.ops",
    name="Graph._create_op_internal",
    parameters="op_type, inputs, dtypes, input_types, name, attrs, op_def, compute_device",
    reason="Lets constants be shared and operations be recorded while a graph is built; "
    "TensorFlow has no public hook for either.",
    used_in=("hmoe/lowering/graph_hooks.py",),
)

EXPAND_DIMS = Patch(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="_expand_dims",
    parameters="x, input_shape, output_shape",
    reason="Aligns the dimensions of two tensors with one TensorFlow operation or none, "
    "where Mesh TensorFlow uses several.",
    used_in=(
        "hmoe/lowering/graph_hooks.py",
        "hmoe/lowering/placement.py",
        "hmoe/lowering/collective.py",
    ),
)

RANDOM_UNIFORM = Patch(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="random_uniform",
    parameters="mesh, shape, kwargs",
    reason="Makes dropout independent of the layout and of the process; Mesh TensorFlow "
    "seeds each slice with Python's salted hash.",
    used_in=("hmoe/mesh/randomness.py",),
)

GET_ESTIMATOR = Patch(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.transformer.utils",
    name="get_estimator",
    parameters="model_type, vocabulary, mesh_shape, layout_rules, model_dir, batch_size, "
    "sequence_length, autostack, learning_rate_schedule, keep_checkpoint_max, "
    "save_checkpoints_steps, optimizer, predict_fn, variable_filter, "
    "ensemble_inputs, use_tpu, tpu_job_name, iterations_per_loop, cluster, "
    "init_checkpoint, mesh_devices, score_in_predict_mode",
    reason="Gives `utils.run` a trainer that works without TPUEstimator; `utils.run` takes "
    "it from its module.",
    used_in=("hmoe/t5/commands/t5_run.py",),
)

EVAL_MODEL = Patch(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.transformer.utils",
    name="eval_model",
    parameters="estimator, vocabulary, sequence_length, batch_size, dataset_split, "
    "model_dir, eval_dataset_fn, eval_summary_dir, eval_checkpoint_step, "
    "eval_with_score, output_eval_examples, eval_dir_suffix, "
    "score_with_estimator_fn",
    reason="Adds teacher-forced numbers, metrics of experts and a report to an evaluation.",
    used_in=("hmoe/t5/commands/t5_run.py", "hmoe/t5/evaluation/evaluate.py"),
)

CHECKPOINT_ITERATOR = Patch(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.transformer.utils",
    name="get_checkpoint_iterator",
    parameters="checkpoint_step, model_dir, skip_until, stop_after, find_closest",
    reason="Yields whole checkpoints of the folder alone; upstream's believes the file "
    "`checkpoint`, and silently takes another step where there is none of the one asked for.",
    used_in=("hmoe/t5/commands/t5_run.py", "hmoe/t5/evaluation/evaluate.py"),
)

INFER_MODEL = Patch(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.transformer.utils",
    name="infer_model",
    parameters="estimator, vocabulary, sequence_length, batch_size, model_type, "
    "model_dir, eval_checkpoint_step, checkpoint_paths, decode_fn",
    reason="Answers the lines of the command line; upstream's function reads its files from gin.",
    used_in=("hmoe/t5/commands/t5_run.py", "hmoe/t5/commands/predict.py"),
)

SCORE_FROM_STRINGS = Patch(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.transformer.utils",
    name="score_from_strings",
    parameters="estimator, vocabulary, model_type, batch_size, sequence_length, "
    "model_dir, eval_checkpoint_step, inputs, targets, score_postprocess_fn, "
    "eos_id, score_eos, score_with_estimator_fn",
    reason="Scores the files of the command line; upstream's function reads its files from gin.",
    used_in=("hmoe/t5/commands/t5_run.py", "hmoe/t5/commands/score.py"),
)

TASK_DATASET = Patch(
    **SEQIO,
    module="seqio",
    name="Task.get_dataset",
    parameters="sequence_length, split, use_cached, shuffle, shuffle_buffer_size, seed, "
    "shard_info, num_epochs, trim_output_features, try_in_mem_cache",
    reason="Lets T5's `mesh_train_dataset_fn` read one shard of its data, for which it has no "
    "argument.",
    used_in=("hmoe/t5/data/training_data.py",),
)

MIXTURE_DATASET = Patch(
    **SEQIO,
    module="seqio",
    name="Mixture.get_dataset",
    parameters="sequence_length, split, use_cached, shuffle, seed, shard_info, num_epochs, "
    "copy_pretokenized, compute_stats_empirically, log_mixing_proportions, "
    "passthrough_features, trim_output_features, try_in_mem_cache",
    reason="Lets T5's `mesh_train_dataset_fn` read one shard of a mixture, with a seed of its own "
    "for the order of the tasks.",
    used_in=("hmoe/t5/data/training_data.py",),
)


# Replaced for the rest of the process.

DISABLE_V2_BEHAVIOR = Patch(
    **TENSORFLOW,
    module="tensorflow.compat.v1",
    name="disable_v2_behavior",
    parameters="",
    reason="Keeps resource variables when T5's own command turns TensorFlow 2 behaviour off.",
    used_in=("hmoe/compat/__main__.py",),
)

GIN_FILE_READERS = Patch(
    **GIN,
    module="gin.config",
    name="_FILE_READERS",
    has=("__iter__",),
    reason="Lets gin find `runs/default.gin` although a plain folder `runs` is on Python's "
    "path, on which gin fails.",
    used_in=("hmoe/t5/commands/gin_config.py",),
)


# Added where the installed TensorFlow, or T5 without PyTorch, lacks them.

CONVERSION_FUNCTION = Patch(
    **TENSORFLOW,
    module="tensorflow.python.framework.ops",
    name="register_tensor_conversion_function",
    parameters="base_type, conversion_func, priority",
    reason="Mesh TensorFlow 0.1.21 registers its tensors by it when it is imported.",
    used_in=("hmoe/compat/stand_ins.py",),
)

ESTIMATOR_V1 = Patch(
    **TENSORFLOW,
    module="tensorflow.compat.v1",
    name="estimator",
    has=("ModeKeys", "EstimatorSpec", "SessionRunHook", "CheckpointSaverListener", "export"),
    reason="Mesh TensorFlow 0.1.21 and T5 0.9.4 import it.",
    used_in=("hmoe/compat/stand_ins.py",),
)

ESTIMATOR = Patch(
    **TENSORFLOW,
    module="tensorflow",
    name="estimator",
    has=("ModeKeys", "EstimatorSpec", "SessionRunHook", "CheckpointSaverListener", "export"),
    reason="gin and T5 0.9.4 look for it in the top module.",
    used_in=("hmoe/compat/stand_ins.py",),
)

TPU_CONFIG = Patch(
    **TENSORFLOW,
    module="tensorflow.python.tpu",
    name="tpu_config",
    has=("TPUConfig", "RunConfig", "InputPipelineConfig"),
    reason="Mesh TensorFlow 0.1.21 imports it.",
    used_in=("hmoe/compat/stand_ins.py", "hmoe/t5/sessions/tpu_estimator.py"),
)

TPU_ESTIMATOR = Patch(
    **TENSORFLOW,
    module="tensorflow.python.tpu",
    name="tpu_estimator",
    has=("TPUEstimator", "TPUEstimatorSpec"),
    reason="Mesh TensorFlow 0.1.21 imports it, and `--tpu` runs it where it is real.",
    used_in=("hmoe/compat/stand_ins.py", "hmoe/t5/sessions/tpu_estimator.py"),
)

TORCH_MODEL = Internal(
    **T5,
    module="t5.models.hf_model",
    name="HfPyTorchModel",
    has=("__init__",),
    reason="`t5.models` imports it, and it imports PyTorch, which this package does not need.",
    used_in=("hmoe/compat/stand_ins.py",),
)


# Private, and only read, called or set on objects of our own subclasses.

CONTROL_FLOW_CONTEXT = Internal(
    **TENSORFLOW,
    module="tensorflow.python.framework.ops",
    name="Graph._get_control_flow_context",
    parameters="",
    reason="Tells whether a new operation would be inside a loop or a condition.",
    used_in=("hmoe/lowering/graph_hooks.py",),
)

IN_XLA = Internal(
    **TENSORFLOW,
    module="tensorflow.python.ops.control_flow_util",
    name="GraphOrParentsInXlaContext",
    parameters="graph",
    reason="Tells whether XLA will compile a new operation, as on a TPU.",
    used_in=("hmoe/dispatch/by_index.py",),
)

CONTROL_DEPENDENCIES = Internal(
    **TENSORFLOW,
    module="tensorflow.python.framework.ops",
    name="Graph._control_dependencies_stack",
    has=("__iter__",),
    reason="Tells whether a new operation would wait for others.",
    used_in=("hmoe/lowering/graph_hooks.py",),
)

COLOCATION = Internal(
    **TENSORFLOW,
    module="tensorflow.python.framework.ops",
    name="Graph._colocation_stack",
    has=("peek_objs",),
    reason="Tells whether a new operation would be placed beside another.",
    used_in=("hmoe/lowering/graph_hooks.py",),
)

DEVICES = Internal(
    **TENSORFLOW,
    module="tensorflow.python.framework.ops",
    name="Graph._device_function_stack",
    has=("peek_objs",),
    reason="Tells on which device a new operation would be placed.",
    used_in=("hmoe/lowering/graph_hooks.py",),
)

DEVICE_NAME = Internal(
    **TENSORFLOW,
    module="tensorflow.python.framework.ops",
    name="_UserDeviceSpec.raw_string",
    has=("split",),
    reason="Gives the name of a device on the stack of a graph.",
    used_in=("hmoe/lowering/graph_hooks.py",),
)

INITIALIZE_SPLITTABLE = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="Operation._initialize_all_dimensions_as_splittable",
    parameters="",
    reason="Declares which dimensions of an operation may be split; Mesh TensorFlow's own "
    "operations call it in their constructors.",
    used_in=("hmoe/mesh/randomness.py",),
)

INITIALIZE_DIMS = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="Operation._initialize_splittable_and_unsplittable_dims",
    parameters="default_splittability, exception_dims_iterable",
    reason="Declares which dimensions of an operation must not be split.",
    used_in=("hmoe/dispatch/operations.py",),
)

OPERATION_OUTPUTS = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="Operation._outputs",
    has=("__iter__",),
    reason="Holds the results of an operation; subclasses set it.",
    used_in=("hmoe/mesh/randomness.py", "hmoe/dispatch/operations.py"),
)

SPLITTABLE_DIMS = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="Operation._splittable_dims",
    has=("__contains__",),
    reason="Holds the dimensions that may be split; subclasses set it.",
    used_in=("hmoe/mesh/randomness.py", "hmoe/dispatch/operations.py"),
)

UNSPLITTABLE_DIMS = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="Operation._unsplittable_dims",
    has=("__contains__",),
    reason="Holds the dimensions that must not be split; subclasses set it.",
    used_in=("hmoe/mesh/randomness.py", "hmoe/dispatch/operations.py"),
)

LAYOUT_PAIRS = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="LayoutRules._pairs",
    has=("__iter__", "__sub__"),
    reason="Gives the rules of a layout, for which there is no public accessor.",
    used_in=(
        "hmoe/mesh/layout.py",
        "hmoe/t5/layers/layout_check.py",
        "hmoe/lowering/collective.py",
        "hmoe/t5/graphs/step_plan.py",
        "hmoe/t5/evaluation/trace.py",
    ),
)

LOOP_BODY = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="WhileLoopOperation._body_ops",
    has=("__iter__",),
    reason="Holds the operations of the body of a loop.",
    used_in=(
        "hmoe/mesh/layout.py",
        "hmoe/plan/counting.py",
    ),
)

LOOP_INPUTS = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="WhileLoopOperation._body_inputs",
    has=("__iter__",),
    reason="Holds what stands for the inputs of a loop in its body.",
    used_in=("hmoe/plan/counting.py",),
)

LOOP_OUTPUTS = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="WhileLoopOperation._body_outputs",
    has=("__iter__",),
    reason="Holds the results of the body of a loop.",
    used_in=("hmoe/plan/counting.py",),
)

CUSTOM_OUTPUTS = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="CustomGradientOperation._fn_outputs",
    has=("__iter__",),
    reason="Holds the tensors that an operation with a gradient of its own passes on.",
    used_in=("hmoe/plan/counting.py",),
)

REDUCTION_KIND = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="ReduceOperation._reduction_fn_string",
    has=("upper",),
    reason="Names the reduction: a sum waits until it is read, others do not.",
    used_in=("hmoe/plan/counting.py",),
)

DEPENDENCIES = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="Depend._dependencies",
    has=("__iter__",),
    reason="Holds what a tensor waits for.",
    used_in=("hmoe/plan/counting.py",),
)

MULTIPLIED_BY = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="ScalarMultiplyOperation._scalar",
    has=("__float__",),
    reason="Tells two multiplications by different numbers apart, whose functions look alike.",
    used_in=("hmoe/lowering/function_keys.py",),
)

ADDED_NUMBER = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.ops",
    name="ScalarAddOperation._scalar",
    has=("__float__",),
    reason="Tells two additions of different numbers apart, whose functions look alike.",
    used_in=("hmoe/lowering/function_keys.py",),
)

COLLECTIVE = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.placement_mesh_impl",
    name="PlacementMeshImpl._collective_with_groups",
    parameters="x, mesh_axes, collective",
    reason="Runs a collective in each group of devices along some axes of the mesh.",
    used_in=("hmoe/lowering/placement.py",),
)

LAID_OUT_TENSOR = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.placement_mesh_impl",
    name="PlacementMeshImpl.LaidOutVariable._laid_out_tensor",
    has=("tensor_list",),
    reason="Holds the slices of a variable; the subclass here sets it.",
    used_in=("hmoe/lowering/placement.py",),
)

COPY_TO_SLICES = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.placement_mesh_impl",
    name="PlacementMeshImpl.LaidOutVariable._copy_master_to_slices",
    has=("run",),
    reason="Holds the operation that copies a saved variable to its slices; the subclass "
    "here sets it.",
    used_in=("hmoe/lowering/placement.py",),
)

COPY_TO_MASTER = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.placement_mesh_impl",
    name="PlacementMeshImpl.LaidOutVariable._copy_slices_to_master",
    has=("run",),
    reason="Holds the operation that copies slices to the saved variable; the subclass "
    "here sets it.",
    used_in=("hmoe/lowering/placement.py",),
)

RECOMPUTE_GRADS = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.transformer.transformer",
    name="LayerStack._recompute_grads",
    has=("__bool__",),
    reason="Tells whether gradients are recomputed, under which no layer can add a loss.",
    used_in=("hmoe/t5/layers/moe_layer.py",),
)

MODEL_FUNCTION = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.transformer.utils",
    name="tpu_estimator_model_fn",
    parameters="model_type, transformer_model, vocabulary, model_dir, use_tpu, "
    "mesh_shape, layout_rules, batch_size, sequence_length, autostack, "
    "keep_checkpoint_max, save_checkpoints_steps, learning_rate_schedule, "
    "optimizer, outer_batch_size, tpu_summaries, predict_fn, "
    "score_in_predict_mode, variable_filter, init_checkpoint, "
    "init_variable_filter, ensemble_inputs, mesh_devices, model_info_file, "
    "hierarchical_tiling_spec, weight_decay_checkpoint",
    reason="Its arguments are read back from the closure of the function it returns, as "
    "gin resolved them.",
    used_in=("hmoe/t5/graphs/model_settings.py",),
)

COMBINED_INPUT = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.transformer.utils",
    name="_get_combined_dataset_input_fn",
    parameters="datasets, batch_size, sequence_length, check_for_metrics",
    reason="Feeds an evaluation exactly as upstream's does.",
    used_in=("hmoe/t5/evaluation/evaluate.py",),
)

TEXT_TO_SELF = Internal(
    **MESH_TENSORFLOW,
    module="mesh_tensorflow.transformer.utils",
    name="_dynamic_text2self",
    parameters="mtf_features",
    reason="Joins inputs and targets for a model with one stack exactly as upstream does.",
    used_in=("hmoe/t5/graphs/batch_features.py",),
)

GIN_REGISTRY = Internal(
    **GIN,
    module="gin.config",
    name="_REGISTRY",
    has=("_selector_map", "get_match"),
    reason="Gives the names that gin knows, for suggestions in errors.",
    used_in=("hmoe/t5/commands/gin_config.py",),
)

GIN_SELECTORS = Internal(
    **GIN,
    module="gin.selector_map",
    name="SelectorMap._selector_map",
    has=("__iter__",),
    reason="Gives the names that gin knows, for suggestions in errors.",
    used_in=("hmoe/t5/commands/gin_config.py",),
)

GIN_WRAPPED = Internal(
    **GIN,
    module="gin.config",
    name="Configurable.wrapped",
    has=("__call__",),
    reason="Gives the arguments of what gin configures, for suggestions in errors.",
    used_in=("hmoe/t5/commands/gin_config.py",),
)

UPDATE_INPUT = Internal(
    **TENSORFLOW,
    module="tensorflow.python.framework.ops",
    name="Operation._update_input",
    parameters="index, tensor",
    reason="Puts a collective in the place that was kept for it once the graph is whole, so that "
    "several exchanges can share one.",
    used_in=("hmoe/lowering/graph_hooks.py",),
)

SAVE_SLICE_INFO = Internal(
    **TENSORFLOW,
    module="tensorflow.python.ops.variables",
    name="Variable._set_save_slice_info",
    parameters="save_slice_info",
    reason="Saves and restores a variable as a part of a larger one, as partitioned variables are.",
    used_in=("hmoe/lowering/slice_variables.py",),
)

SAVED_SLICE_INFO = Internal(
    **TENSORFLOW,
    module="tensorflow.python.ops.variables",
    name="Variable._get_save_slice_info",
    parameters="",
    reason="Tells which part of a larger variable a variable is.",
    used_in=("hmoe/lowering/slice_variables.py",),
)

LOCALE_DATA = Internal(
    **BABEL,
    module="babel",
    name="Locale._data",
    has=("__getitem__",),
    reason="Gives the patterns of units of a language, for which there is no public accessor.",
    used_in=("hmoe/t5/data/cldr_values.py",),
)

TABLE: tuple[Internal, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Internal)
)
