"""Names of hmoe's classes and their arguments, so that a misspelt one is found at once.

The classes themselves load TensorFlow; a test holds this table against them. Names of other
packages are left to gin.
"""

from __future__ import annotations

from hmoe.startup.gin_checks import scopes
from hmoe.startup.gin_reading import Reading, parts
from hmoe.startup.gin_statements import Binding, Place, Reference
from hmoe.startup.suggestions import nearest, nearest_of

# Two classes of attention also take the arguments of T5's own, and are not listed.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Level": (
        "name",
        "num_experts",
        "router",
        "group_size",
        "examples_per_group",
        "capacity_factor_train",
        "capacity_factor_eval",
        "min_capacity",
        "balance_loss_coef",
        "balance_loss_over",
        "balance_loss_mean_over",
        "balance_loss_choices",
        "z_loss_coef",
        "second_place_loss",
    ),
    "HierarchicalMoE": (
        "levels",
        "experts",
        "shared_expert",
        "aux_loss_factor",
        "router_z_loss_factor",
        "exact_groups",
        "inserted_outer_batch",
        "metrics",
        "engine",
        "seed",
    ),
    "FeedForwardExperts": (
        "hidden_size",
        "activation",
        "use_bias",
        "dropout_rate",
        "output_dropout_rate",
        "output_names",
        "separate",
    ),
    "SharedExpert": (
        "hidden_size",
        "activation",
        "use_bias",
        "dropout_rate",
        "output_dropout_rate",
    ),
    "Gate": (
        "function",
        "jitter",
        "input_dropout",
        "use_bias",
        "kernel_stddev",
        "word_embeddings",
        "explore_probability",
        "explore_temperature",
    ),
    "TopKRouter": (
        "gate",
        "k",
        "policy_train",
        "policy_eval",
        "threshold_train",
        "threshold_eval",
        "weight_norm",
        "priority",
        "retries",
        "bias_update_rate",
    ),
    "SwitchRouter": (
        "gate",
        "priority",
        "retries",
        "bias_update_rate",
        "selection_train",
        "selection_eval",
        "temperature",
    ),
    "UniformRouter": ("gate", "k", "weight_norm"),
    "ExpertChoiceRouter": ("gate", "softmax_over", "allow_in_decoder"),
    "Session": (
        "seed",
        "log_every_steps",
        "graph_optimizer",
        "reuse_graph",
        "activation_dtype",
        "largest_weight",
        "master",
        "say",
        "live",
        "alarm_steps",
        "alarm_idle_experts",
        "alarm_group_below",
        "alarm_group_above",
        "alarm_dropped_above",
        "alarm_entropy_below",
    ),
    "TrainingData": ("num_shards",),
    "FormatSettings": (
        "max_input_bytes",
        "max_target_bytes",
        "languages",
        "kinds",
        "num_draws",
        "seed",
    ),
    "NameSettings": ("max_input_bytes", "max_target_bytes", "languages", "kinds"),
}

# Other names that gin knows in the module hmoe.
_FUNCTIONS = ("moe1d_variable_name",)


def check(reading: Reading) -> None:
    """Raises ValueError for a class of hmoe, or an argument of one, that does not exist."""
    for binding in reading.bindings:
        if not binding.is_macro:
            _check_class(binding.place, binding.selector)
            _check_argument(binding)
        for each in parts(binding.value):
            if isinstance(each, Reference):
                _check_class(binding.place, each.selector)


def _check_class(place: Place, selector: str) -> None:
    module, _, name = selector.rpartition(".")
    known = [*ARGUMENTS, *scopes.CLASSES, *_FUNCTIONS]
    if module == "hmoe" and name not in known:
        # Names differ most in a letter or in case.
        by_case = {each.lower(): each for each in known}
        near = by_case.get(name.lower())
        meant = (
            f"; did you mean 'hmoe.{near}'?"
            if near
            else nearest(name, sorted(by_case.values()), prefix="hmoe.")
        )
        raise ValueError(f"{place}: there is no hmoe.{name}{meant}")


def _check_argument(binding: Binding) -> None:
    name = scopes.class_of(binding.selector)
    known = ARGUMENTS.get(name or "", ())
    if known and binding.argument not in known:
        raise ValueError(
            f"{binding.place}: hmoe.{name} has no argument {binding.argument!r}"
            f"{nearest_of(binding.argument, known, 'it has')}"
        )
