"""What the reference page says and the code does not: units, sources, examples, formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hmoe.dispatch.operations import ENGINES
from hmoe.layer import metrics
from hmoe.routing import expert_choice, gate, losses, switch, token_choice

REFERENCES = {
    "DeepSeek-V3": "DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2; after Wang et al. 2024,"
    " arXiv:2408.15664",
    "DeepSeekMoE": "Dai et al. 2024, arXiv:2401.06066",
    "GLU": "Shazeer 2020, arXiv:2002.05202",
    "GShard": "Lepikhin et al. 2020, arXiv:2006.16668",
    "hmoe": "nothing else that we know has it in this form",
    "Mesh TensorFlow": "0.1.21, `mesh_tensorflow/transformer/moe.py` (of attention:"
    " `transformer_layers.py`); names are arguments of `MoE1D`, if no other"
    " class is named",
    "OLMo-core": "`olmo_core/nn/moe` of 3.0.0",
    "Shazeer 2017": "Shazeer et al. 2017, arXiv:1701.06538",
    "ST-MoE": "Zoph et al. 2022, arXiv:2202.08906",
    "Switch": "Fedus et al. 2021, arXiv:2101.03961",
    "T5X": "`t5x/contrib/moe`",
    "TF Model Garden": "`official/nlp/modeling/layers/moe.py` of 2.20.0",
    "torchtune": "the RFC of its mixture of experts",
    "V-MoE": "Riquelme et al. 2021, arXiv:2106.05974",
    "Zhou 2022": "Zhou et al. 2022, arXiv:2202.09368",
}


def one_of(values: Sequence[str]) -> str:
    """The unit of a setting that is one of these words."""
    return "one of " + ", ".join(f'`"{value}"`' for value in values)


YES = "true or false"
OBJECT = "object"
FACTOR = "factor"
EXPERTS = "experts"
SHARE = "share, 0 to 1"
PROBABILITY = "probability"

Row = tuple[str, str]
_GATE: dict[str, Row] = {"gate": (OBJECT, "Shazeer 2017")}
_BALANCING: dict[str, Row] = {
    "priority": (YES, 'V-MoE; Mesh TensorFlow `moe_gating = "switch_max"`'),
    "retries": (EXPERTS, "Mesh TensorFlow `ntlb_top_k`; hmoe: at any level and for any k"),
    "bias_update_rate": ("probability a step", "DeepSeek-V3; OLMo-core `bias_gamma`"),
    **_GATE,
}
_K: dict[str, Row] = {
    "k": (
        "experts a token",
        "Shazeer 2017; Mesh TensorFlow `top_n_num_experts_per_token`; OLMo-core `top_k`",
    ),
    "weight_norm": ("p of the norm", "OLMo-core `normalize_expert_weights`; Mesh TensorFlow: 1"),
}
_FEED_FORWARD: dict[str, Row] = {
    "hidden_size": ("hidden values", "Mesh TensorFlow `hidden_size`"),
    "activation": ("name, or list of names", "Mesh TensorFlow `activation`; GLU"),
    "use_bias": (YES, "TF Model Garden; OLMo-core"),
    "dropout_rate": (SHARE, "Mesh TensorFlow `dropout_rate`"),
    "output_dropout_rate": (SHARE, "TF Model Garden `output_dropout`"),
}
_LAYER: dict[str, Row] = {
    "levels": ("list of 1 to 3 levels", "Shazeer 2017, appendix B; Mesh TensorFlow `MoE2D`"),
    "experts": (OBJECT, "Shazeer 2017"),
    "aux_loss_factor": (FACTOR, "T5X `aux_loss_factor`"),
    "router_z_loss_factor": (FACTOR, "T5X `router_z_loss_factor`"),
    "exact_groups": (YES, "hmoe"),
    "inserted_outer_batch": (
        "parts of the batch",
        "Mesh TensorFlow `outer_batch_size` (training alone)",
    ),
    "metrics": (one_of(metrics.DETAILS), "hmoe"),
    "engine": (one_of(ENGINES), "hmoe"),
    "seed": ("whole number", "hmoe"),
}

# By class: of each argument its unit and its source.
ARGUMENTS: dict[str, dict[str, Row]] = {
    "MoELayer": {
        **_LAYER,
        "shared_expert": (OBJECT, "TF Model Garden `MoeLayerWithBackbone`; DeepSeekMoE; OLMo-core"),
    },
    "Level": {
        "name": ("word", "hmoe"),
        "num_experts": (
            EXPERTS,
            "Mesh TensorFlow `num_experts`, and `expert_x` and `expert_y` of `MoE2D`",
        ),
        "router": (OBJECT, "hmoe; Mesh TensorFlow: `moe_gating`, a word"),
        "group_size": ("tokens", "GShard; Mesh TensorFlow `group_size`"),
        "examples_per_group": ("examples", "TF Model Garden `examples_per_group`"),
        "capacity_factor_train": (
            "slots a token",
            "GShard; Mesh TensorFlow `capacity_factor_train`",
        ),
        "capacity_factor_eval": ("slots a token", "GShard; Mesh TensorFlow `capacity_factor_eval`"),
        "min_capacity": ("slots", "Mesh TensorFlow `min_expert_capacity`"),
        "balance_loss_coef": (FACTOR, "GShard; Mesh TensorFlow `loss_coef`"),
        "balance_loss_over": (
            one_of(losses.POOLS),
            "OLMo-core `lb_loss_granularity`; Mesh TensorFlow: group",
        ),
        "balance_loss_mean_over": (
            one_of(losses.MEANS),
            "hmoe: tokens; Mesh TensorFlow: positions",
        ),
        "balance_loss_choices": (
            one_of(losses.COUNTED_CHOICES),
            "OLMo-core: all; Mesh TensorFlow: first",
        ),
        "z_loss_coef": (FACTOR, "ST-MoE, equation 5; Mesh TensorFlow `z_loss`"),
        "second_place_loss": (YES, "Mesh TensorFlow `use_second_place_loss`"),
    },
    "Gate": {
        "function": (
            one_of(gate.FUNCTIONS),
            "Shazeer 2017; DeepSeek-V3; OLMo-core `gating_function`",
        ),
        "jitter": (
            SHARE,
            "Switch, section 2.2; Mesh TensorFlow `switch_jitter`; OLMo-core `jitter_eps`",
        ),
        "input_dropout": (SHARE, "Switch, section 2.2; Mesh TensorFlow `switch_dropout`"),
        "use_bias": (YES, "TF Model Garden"),
        "kernel_stddev": ("deviation of the weights", "TF Model Garden; OLMo-core"),
        "word_embeddings": (one_of(gate.EMBEDDING_MODES), "Mesh TensorFlow `word_embed_mode`"),
        "explore_probability": (PROBABILITY, "Mesh TensorFlow `use_second_place_expert_prob`"),
        "explore_temperature": (
            "temperature",
            "Mesh TensorFlow `use_second_place_expert_prob_temp`",
        ),
    },
    "TopKRouter": {
        **_K,
        "policy_train": (
            one_of(token_choice.POLICIES),
            "GShard, algorithm 1; Mesh TensorFlow `second_policy_train`",
        ),
        "policy_eval": (one_of(token_choice.POLICIES), "Mesh TensorFlow `second_policy_eval`"),
        "threshold_train": ("weight", "Mesh TensorFlow `second_threshold_train`"),
        "threshold_eval": ("weight", "Mesh TensorFlow `second_threshold_eval`"),
        **_BALANCING,
    },
    "SwitchRouter": {
        "selection_train": (one_of(switch.SELECTIONS), "Mesh TensorFlow `switch_policy_train`"),
        "selection_eval": (one_of(switch.SELECTIONS), "Mesh TensorFlow `switch_policy_eval`"),
        "temperature": ("temperature", "Mesh TensorFlow `switch_temperature`"),
        **_BALANCING,
    },
    "ExpertChoiceRouter": {
        "softmax_over": (
            one_of(expert_choice.SOFTMAX_OVER),
            'TF Model Garden: experts; Mesh TensorFlow `moe_gating = "expert_selection"`: tokens',
        ),
        "allow_in_decoder": (YES, "hmoe"),
        **_GATE,
    },
    "UniformRouter": {
        "k": ("experts a token", "OLMo-core `uniform_expert_assignment`"),
        "weight_norm": _K["weight_norm"],
        **_GATE,
    },
    "FeedForwardExperts": {
        **_FEED_FORWARD,
        "output_names": ("list of words", "Mesh TensorFlow `use_experts_attention`"),
        "separate": (YES, "torchtune"),
    },
    "SharedExpert": _FEED_FORWARD,
    "ExpertsSelfAttention": {
        **_LAYER,
        "expert_computation": (
            'one of `"qkv"`, `"q"`, `"kv"`',
            "Mesh TensorFlow `expert_computation` of `ExpertsSelfAttention`",
        ),
    },
    "ExpertsEncDecAttention": {
        **_LAYER,
        "expert_computation": (
            'one of `"qkv"`, `"q"`, `"kv"`',
            "Mesh TensorFlow `expert_computation` of `ExpertsEncDecAttention`",
        ),
        "relative_attention_type": (
            'one of `"bias"`, `"bias_shared"`, `"contextual"`',
            "Mesh TensorFlow `relative_attention_type` of `EncDecAttention`",
        ),
    },
}

# For each class some lines over `models/hierarchical_tiny.gin`.
EXAMPLES = {
    "MoELayer": """
# All detail, a dense layer beside the experts, and one level instead of two in the encoder.
hmoe.HierarchicalMoE.metrics = "full"
hmoe.HierarchicalMoE.shared_expert = @hmoe.SharedExpert()
hmoe.SharedExpert.hidden_size = 128
encoder/hmoe.HierarchicalMoE.levels = [@flat/hmoe.Level()]
flat/hmoe.Level.name = "flat"
flat/hmoe.Level.num_experts = 16
flat/hmoe.Level.router = @flat/hmoe.TopKRouter()
""",
    "Level": """
# Without a scope for all levels, with one for that level.
hmoe.Level.z_loss_coef = 0.001
outer/hmoe.Level.balance_loss_over = "batch"
inner/hmoe.Level.capacity_factor_train = 1.5
""",
    "Gate": """
hmoe.TopKRouter.gate = @hmoe.Gate()
hmoe.Gate.function = "sigmoid"
hmoe.Gate.jitter = 0.01
""",
    "TopKRouter": """
outer/hmoe.TopKRouter.k = 1
inner/hmoe.TopKRouter.k = 2
# Full experts pass tokens on to others of the same outer group.
inner/hmoe.TopKRouter.retries = 2
""",
    "SwitchRouter": """
outer/hmoe.Level.router = @hmoe.SwitchRouter()
inner/hmoe.Level.router = @hmoe.SwitchRouter()
hmoe.SwitchRouter.retries = 1
hmoe.SwitchRouter.gate = @hmoe.Gate()
hmoe.Gate.jitter = 0.01
""",
    "ExpertChoiceRouter": """
# Experts choose outside, tokens inside; models/routers/expert_choice.gin has it for encoders alone.
outer/hmoe.Level.router = @hmoe.ExpertChoiceRouter()
hmoe.ExpertChoiceRouter.softmax_over = "tokens"
hmoe.ExpertChoiceRouter.allow_in_decoder = True
""",
    "UniformRouter": """
outer/hmoe.Level.router = @hmoe.UniformRouter()
inner/hmoe.Level.router = @hmoe.UniformRouter()
""",
    "FeedForwardExperts": """
hmoe.FeedForwardExperts.hidden_size = 256
hmoe.FeedForwardExperts.activation = ["swish", "linear"]
""",
    "SharedExpert": """
hmoe.HierarchicalMoE.shared_expert = @hmoe.SharedExpert()
hmoe.SharedExpert.hidden_size = 256
hmoe.SharedExpert.activation = ["gelu", "linear"]
""",
    "ExpertsSelfAttention": """
encoder/transformer.make_layer_stack.layers = [@hmoe.ExpertsSelfAttention, %expert_layer]
hmoe.HierarchicalMoE.levels = [@outer/hmoe.Level(), @inner/hmoe.Level()]
hmoe.HierarchicalMoE.experts = @hmoe.FeedForwardExperts()
""",
    "ExpertsEncDecAttention": """
decoder/transformer.make_layer_stack.layers = [
    @transformer_layers.SelfAttention, @hmoe.ExpertsEncDecAttention, %expert_layer]
hmoe.HierarchicalMoE.levels = [@outer/hmoe.Level(), @inner/hmoe.Level()]
hmoe.HierarchicalMoE.experts = @hmoe.FeedForwardExperts()
hmoe.ExpertsEncDecAttention.expert_computation = "q"
""",
}


class Metric(NamedTuple):
    """A name that a level, a layer or the model tells."""

    name: str
    of: str
    detail: str
    unit: str
    meaning: str
    formula: str


METRICS: list[Metric] = [
    Metric(
        "auxiliary_loss",
        "level",
        "off",
        "1 where even",
        "balance loss, without coefficient and factor; mean over full tokens, of which calls,"
        " groups and pools have as many as they have",
        "X^2 * mean(share of the pool that chose x * mean probability of x) over pools and x;"
        " pools: `hmoe.Level.balance_loss_over`",
    ),
    Metric(
        "second_place_loss",
        "level",
        "off",
        "1 where even",
        "the same of second choices; only with `hmoe.Level.second_place_loss`",
        "as above, of the probabilities that first choices left, scaled to sum to 1",
    ),
    Metric(
        "router_z_loss",
        "level",
        "off",
        "nats^2",
        "size of the logits",
        "mean over full tokens of logsumexp(logits)^2",
    ),
    Metric(
        "weighted_loss",
        "level",
        "off",
        "as the loss",
        "what training adds for this level",
        "aux_loss_factor * balance_loss_coef * (auxiliary_loss + second_place_loss / 2)"
        " + router_z_loss_factor * z_loss_coef * router_z_loss",
    ),
    Metric(
        "fraction_tokens_dropped",
        "level",
        "brief",
        SHARE,
        "tokens of the layer lost here: they arrived, and no copy of them found a place. Over"
        " the levels these add up to the layer's `fraction_tokens_left_behind`",
        "tokens lost here / real tokens of the layer",
    ),
    Metric(
        "fraction_tokens_left_behind",
        "level",
        "brief",
        SHARE,
        "arrivals that found no place at this level; one token may arrive more than once",
        "arrivals without a slot / arrivals",
    ),
    Metric(
        "expert_usage",
        "level",
        "brief",
        SHARE,
        "how full buffers are, those for first-level groups of padding alone left out",
        "filled slots / (slots * first-level groups with a token / first-level groups)",
    ),
    Metric(
        "router_confidence",
        "level",
        "brief",
        "weight",
        "mean weight of what is used",
        "sum of weights of filled slots / filled slots",
    ),
    Metric(
        "load_imbalance",
        "level",
        "brief",
        "times the mean",
        "how much more the most wanted expert is wanted than the mean, before policy and"
        " capacity; families (experts of one outer expert) weigh as much as their demand",
        "X * highest demand / sum of demand",
    ),
    Metric(
        "max_violation",
        "level",
        "brief",
        "times the mean",
        "MaxVio; 0 where even",
        "load_imbalance - 1",
    ),
    Metric(
        "dead_experts",
        "level",
        "brief",
        EXPERTS,
        "experts of all families that no token chose since the last report",
        "number of experts with demand 0",
    ),
    Metric(
        "entropy",
        "level",
        "full",
        "nats",
        "of the gate; ln X where it is undecided",
        "mean over full tokens of -sum(p * ln(p)); of a sigmoid p is divided by its sum",
    ),
    Metric(
        "fraction_routed_rank_<r>",
        "level",
        "full",
        SHARE,
        "choices of rank r, 0 for the best, that found a place",
        "placed choices of rank r of full tokens / full tokens",
    ),
    Metric(
        "gate_mean_rank_<r>",
        "level",
        "full",
        "weight",
        "mean weight of choices of rank r, before policy and capacity",
        "sum of weights of choices of rank r of full tokens / full tokens",
    ),
    Metric(
        "load_<i>",
        "level",
        "full",
        SHARE,
        "what part of the demand is for expert i",
        "demand for expert i of all families / all demand",
    ),
    Metric("auxiliary_loss", "layer", "off", "1 where even", "of the layer", "mean over levels"),
    Metric("router_z_loss", "layer", "off", "nats^2", "of the layer", "mean over levels"),
    Metric(
        "weighted_loss",
        "layer",
        "off",
        "as the loss",
        "what training adds for this layer",
        "sum over levels",
    ),
    Metric(
        "fraction_tokens_left_behind",
        "layer",
        "brief",
        SHARE,
        "real tokens that reach no expert of the innermost level",
        "tokens without an innermost slot / real tokens",
    ),
    Metric(
        "expert_usage",
        "layer",
        "brief",
        SHARE,
        "how full the experts' buffers are",
        "filled innermost slots / innermost slots, these counted as for a level",
    ),
    Metric(
        "router_confidence",
        "layer",
        "brief",
        "weight",
        "mean weight of the experts' outputs",
        "sum over filled innermost slots of the product of weights on the way / filled"
        " innermost slots",
    ),
    Metric(
        "load_imbalance",
        "layer",
        "brief",
        "times the mean",
        "how much more the most wanted of all experts of the layer is wanted than the mean",
        "experts * highest demand / sum of demand, at the innermost level",
    ),
    Metric(
        "max_violation",
        "layer",
        "brief",
        "times the mean",
        "MaxVio of all experts",
        "load_imbalance - 1",
    ),
    Metric(
        "dead_experts",
        "layer",
        "brief",
        EXPERTS,
        "experts of the layer that no token chose since the last report",
        "number of innermost experts with demand 0",
    ),
    Metric(
        "weighted_loss",
        "model",
        "off",
        "as the loss",
        "what training adds to the cross entropy",
        "sum over layers",
    ),
    *[
        Metric(
            name,
            "model",
            "off" if name.endswith("loss") else "brief",
            unit,
            "of the model",
            "mean over layers",
        )
        for name, unit in (
            ("auxiliary_loss", "1 where even"),
            ("router_z_loss", "nats^2"),
            ("fraction_tokens_left_behind", SHARE),
            ("expert_usage", SHARE),
            ("router_confidence", "weight"),
            ("load_imbalance", "times the mean"),
            ("dead_experts", EXPERTS),
        )
    ],
    *[
        Metric(
            f"<level>/{name}",
            "model",
            "brief",
            unit,
            "of the levels of this name",
            "mean over layers that have the level",
        )
        for name, unit in (("fraction_tokens_dropped", SHARE), ("max_violation", "times the mean"))
    ],
]

# Of lines of metrics.jsonl, beside the above: (when, unit, meaning).
RUN: dict[str, tuple[str, str, str]] = {
    "step": ("training", "steps", "steps done"),
    "time": ("training", "seconds", "since 1970"),
    "loss": (
        "both",
        "nats a target position",
        "what T5 minimises: cross entropy by all positions"
        " of targets, padding too, weighted losses, and in training the output z-loss",
    ),
    "cross_ent_loss": (
        "both",
        "nats a token",
        "cross entropy of the targets alone, by real targets",
    ),
    "learning_rate": ("training", "factor", "as the schedule has it"),
    "steps_per_second": ("training", "steps a second", "since the last report"),
    "tokens_per_second": ("training", "tokens a second", "padding not counted"),
    "neg_log_perplexity": ("evaluation", "nats a token", "mean log-likelihood of real targets"),
    "token_accuracy": ("evaluation", SHARE, "real targets that are the most likely token"),
    "sequence_accuracy": ("evaluation", SHARE, "rows in which all are"),
    "mean_label": ("evaluation", "number of a token", "mean of the targets' ids"),
    "num_eval_tokens": ("evaluation", "tokens", "real targets"),
}
