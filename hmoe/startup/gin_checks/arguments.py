"""Types and ranges of arguments that gin binds, as far as one value shows them.

Each value is checked where it stands: a macro at its definition, under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hmoe import checks
from hmoe.startup.gin_checks import scopes
from hmoe.startup.gin_reading import Reading, Resolved, is_symbolic
from hmoe.startup.gin_statements import Reference


def text(where: str, field: str, value: object) -> str:
    """Returns `value` if it is a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: {field} is {value!r}; it must be a text")
    return value


def integer(where: str, field: str, value: object) -> int:
    """Returns `value` if it is an integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{where}: {field} is {value!r}; it must be an integer")
    return value


def number_of_examples(where: str, field: str, value: object) -> int:
    """Returns `value` if it is a number of examples, or negative for all of them."""
    number = integer(where, field, value)
    if number == 0:
        raise ValueError(f"{where}: {field} is 0; it must be at least 1, or -1 for all examples")
    return number


def pattern(where: str, field: str, value: object) -> str:
    """Returns `value` if it is a regular expression."""
    value = text(where, field, value)
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(
            f"{where}: {field} is {value!r}; it must be a regular expression ({error})"
        ) from None
    return value


def words(where: str, field: str, value: object) -> object:
    """Returns `value` if it is a list of texts."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise ValueError(
            f"{where}: {field} is {value!r}; it must be a list of texts, such as ['a', 'b']"
        )
    return value


_UTILS = "mesh_tensorflow.transformer.utils"
_RUN = f"{_UTILS}.run"
_TRANSFORMER = "mesh_tensorflow.transformer.transformer"
_LAYERS = "mesh_tensorflow.transformer.transformer_layers"
_SCHEDULES = "mesh_tensorflow.transformer.learning_rate_schedules"
_TASKS = "t5.models.mesh_transformer"
MODEL_TYPES = ("bitransformer", "bi_student_teacher", "lm", "delimited_lm", "aligned")

_POSITIVE, _COUNT = checks.positive_int, checks.non_negative_int

CHECKS: dict[str, checks.Check] = {
    f"{_RUN}.model_type": checks.one_of(MODEL_TYPES),
    f"{_RUN}.dataset_split": text,
    f"{_RUN}.autostack": checks.boolean,
    f"{_RUN}.export_checkpoint_step": checks.optional(integer),
    f"{_RUN}.iterations_per_loop": _POSITIVE,
    f"{_RUN}.save_checkpoints_steps": _POSITIVE,
    # None and 0 keep all.
    f"{_RUN}.keep_checkpoint_max": checks.optional(_COUNT),
    f"{_RUN}.eval_summary_dir": checks.optional(text),
    f"{_RUN}.train_steps": _POSITIVE,
    f"{_RUN}.total_run_steps": checks.optional(_POSITIVE),
    f"{_RUN}.variable_filter": checks.optional(pattern),
    f"{_RUN}.perplexity_eval_steps": _POSITIVE,
    f"{_RUN}.init_checkpoint": checks.optional(text),
    f"{_RUN}.ensemble_inputs": checks.optional(_POSITIVE),
    f"{_RUN}.skip_seen_data": checks.boolean,
    f"{_RUN}.seen_data_init_step": _COUNT,
    f"{_RUN}.output_eval_examples": checks.boolean,
    f"{_RUN}.checkpoint_input_pipeline": checks.boolean,
    f"{_RUN}.eval_dir_suffix": checks.optional(text),
    f"{_UTILS}.tpu_estimator_model_fn.outer_batch_size": _POSITIVE,
    # None and 0 do not split the batch.
    f"{_UTILS}.serialize_num_microbatches.tokens_per_microbatch_per_replica": checks.optional(
        _COUNT
    ),
    f"{_TRANSFORMER}.make_layer_stack.num_layers": _POSITIVE,
    f"{_TRANSFORMER}.Unitransformer.d_model": _POSITIVE,
    f"{_TRANSFORMER}.Unitransformer.max_length": _POSITIVE,
    f"{_TRANSFORMER}.Unitransformer.label_smoothing": checks.fraction,
    f"{_TRANSFORMER}.Unitransformer.z_loss": checks.non_negative_number,
    f"{_TRANSFORMER}.Unitransformer.positional_embedding": checks.boolean,
    f"{_TRANSFORMER}.Unitransformer.shared_embedding_and_softmax_weights": checks.boolean,
    f"{_TRANSFORMER}.Unitransformer.loss_on_targets_only": checks.boolean,
    f"{_TRANSFORMER}.sublayer_dropout.dropout_rate": checks.fraction,
    f"{_LAYERS}.SelfAttention.num_heads": _POSITIVE,
    f"{_LAYERS}.SelfAttention.key_value_size": _POSITIVE,
    f"{_LAYERS}.SelfAttention.dropout_rate": checks.fraction,
    f"{_LAYERS}.SelfAttention.relative_attention_type": checks.optional(
        checks.one_of(("bias", "bias_shared", "contextual"))
    ),
    f"{_LAYERS}.DenseReluDense.hidden_size": _POSITIVE,
    f"{_LAYERS}.DenseReluDense.dropout_rate": checks.fraction,
    f"{_SCHEDULES}.linear_warmup.steps_or_fraction": checks.non_negative_number,
    f"{_SCHEDULES}.linear_decay.steps_or_fraction": checks.positive_number,
    f"{_SCHEDULES}.truncated_rsqrt.warmup_steps": checks.non_negative_number,
    f"{_SCHEDULES}.learning_rate_schedule_noam.warmup_steps": checks.non_negative_number,
    f"{_SCHEDULES}.constant_learning_rate.learning_rate": checks.non_negative_number,
    f"{_TASKS}.mesh_train_dataset_fn.mixture_or_task_name": text,
    f"{_TASKS}.mesh_train_dataset_fn.seed": checks.optional(integer),
    f"{_TASKS}.mesh_train_dataset_fn.shuffle": checks.boolean,
    f"{_TASKS}.mesh_train_dataset_fn.use_cached": checks.boolean,
    f"{_TASKS}.mesh_train_dataset_fn.pack": checks.boolean,
    f"{_TASKS}.mesh_eval_dataset_fn.mixture_or_task_name": text,
    f"{_TASKS}.mesh_eval_dataset_fn.num_eval_examples": checks.optional(number_of_examples),
    f"{_TASKS}.mesh_eval_dataset_fn.use_cached": checks.boolean,
    f"{_TASKS}.get_vocabulary.mixture_or_task_name": checks.optional(text),
}

# Those of hmoe's own classes, which load TensorFlow; a test holds them against the classes' fields.
OWN_CHECKS: dict[str, dict[str, checks.Check]] = {
    "Level": {
        "num_experts": _POSITIVE,
        "group_size": _POSITIVE,
        "examples_per_group": checks.optional(checks.positive_number),
        "capacity_factor_train": checks.optional(checks.positive_number),
        "capacity_factor_eval": checks.optional(checks.positive_number),
        "min_capacity": _COUNT,
        "balance_loss_coef": checks.non_negative_number,
        "balance_loss_over": checks.one_of(("group", "example", "batch")),
        "balance_loss_mean_over": checks.one_of(("tokens", "positions")),
        "balance_loss_choices": checks.one_of(("first", "all")),
        "z_loss_coef": checks.non_negative_number,
        "second_place_loss": checks.boolean,
    },
    "Gate": {
        "function": checks.one_of(("softmax", "sigmoid")),
        "jitter": checks.fraction,
        "input_dropout": checks.fraction,
        "use_bias": checks.boolean,
        "explore_probability": checks.probability,
    },
    "SwitchRouter": {
        "priority": checks.boolean,
        "retries": _COUNT,
        "selection_train": checks.one_of(("argmax", "sample")),
        "selection_eval": checks.one_of(("argmax", "sample")),
        "temperature": checks.positive_number,
    },
    "UniformRouter": {"k": _POSITIVE},
    "ExpertChoiceRouter": {
        "softmax_over": checks.one_of(("experts", "tokens")),
        "allow_in_decoder": checks.boolean,
    },
    "TopKRouter": {
        "k": _POSITIVE,
        "policy_train": checks.one_of(("all", "none", "threshold", "random")),
        "policy_eval": checks.one_of(("all", "none", "threshold", "random")),
        "threshold_train": checks.positive_number,
        "threshold_eval": checks.positive_number,
        "priority": checks.boolean,
        "retries": _COUNT,
    },
    "FeedForwardExperts": {
        "hidden_size": _POSITIVE,
        "use_bias": checks.boolean,
        "dropout_rate": checks.fraction,
        "output_dropout_rate": checks.fraction,
        "separate": checks.boolean,
    },
    "SharedExpert": {
        "hidden_size": _POSITIVE,
        "use_bias": checks.boolean,
        "dropout_rate": checks.fraction,
        "output_dropout_rate": checks.fraction,
    },
    "HierarchicalMoE": {
        "aux_loss_factor": checks.non_negative_number,
        "router_z_loss_factor": checks.non_negative_number,
        "exact_groups": checks.boolean,
        "metrics": checks.one_of(("brief", "full", "off")),
        "engine": checks.one_of(("auto", "index", "einsum")),
        "seed": _COUNT,
    },
    "Session": {
        "seed": _COUNT,
        "log_every_steps": _POSITIVE,
        "graph_optimizer": checks.boolean,
        "reuse_graph": checks.boolean,
        "activation_dtype": checks.one_of(("float32", "bfloat16")),
        "alarm_steps": _COUNT,
        "alarm_idle_experts": checks.boolean,
        "alarm_group_below": checks.optional(checks.probability),
        "alarm_group_above": checks.optional(checks.at_least_one),
        "alarm_dropped_above": checks.optional(checks.probability),
        "alarm_entropy_below": checks.optional(checks.probability),
    },
    "TrainingData": {"num_shards": _POSITIVE},
    "FormatSettings": {"languages": words, "kinds": words, "num_draws": _POSITIVE, "seed": _COUNT},
    "NameSettings": {"languages": words, "kinds": words},
}


def check(reading: Reading) -> None:
    """Raises ValueError for a literal that its argument cannot have."""
    for binding in reading.effective:
        found = reading.resolve(binding)
        for rule in _rules(binding.selector, binding.argument):
            apply(rule, found)


def apply(rule: checks.Check, found: Resolved) -> None:
    """Raises ValueError, with the place and the name, for a literal that a check refuses."""
    if isinstance(found.value, Reference) or is_symbolic(found.value):
        return  # gin has to evaluate it
    rule(str(found.place), found.name, found.value)


def _rules(selector: str, argument: str) -> Iterable[checks.Check]:
    name = scopes.class_of(selector)
    if name is not None:
        rule = OWN_CHECKS.get(name, {}).get(argument)
        return [] if rule is None else [rule]
    given = f".{selector}.{argument}"
    return [rule for full, rule in CHECKS.items() if f".{full}".endswith(given)]
