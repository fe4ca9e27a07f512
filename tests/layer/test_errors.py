"""Every error of constructors by its full text."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import hmoe
from hmoe.compat.stack import mtf, tf
from tests import graphs, seeded
from tests.run_layer import run_layer

ROUTER = hmoe.TopKRouter()
EXPERTS = hmoe.FeedForwardExperts(hidden_size=3)


def level(name="inner", **more):
    return hmoe.Level(name=name, **dict({"num_experts": 2, "router": ROUTER}, **more))


def layer(levels=None, experts=EXPERTS, **more):
    return hmoe.HierarchicalMoE(
        levels=[level()] if levels is None else levels, experts=experts, **more
    )


INTEGER = "it must be an integer of at least 1"
NUMBER = "it must be a finite number above 0"
FROM_0 = "it must be a finite number of at least 0"
BOOLEAN = "it must be True or False"
POLICIES = "it must be one of all, none, threshold, random"

CASES = [
    (
        level,
        {"name": "two words"},
        "Level: name is 'two words'; it must be one word of letters, digits and _",
    ),
    (level, {"name": None}, "Level: name is None; it must be one word of letters, digits and _"),
    (
        level,
        {"router": "top_2"},
        "level 'inner': router is 'top_2'; it must be an object such as hmoe.TopKRouter(k=2) (in gin:"
        " @hmoe.TopKRouter(), with the brackets)",
    ),
    (level, {"num_experts": 0}, f"level 'inner': num_experts is 0; {INTEGER}"),
    (level, {"num_experts": 2.5}, f"level 'inner': num_experts is 2.5; {INTEGER}"),
    (level, {"num_experts": True}, f"level 'inner': num_experts is True; {INTEGER}"),
    (level, {"group_size": -1}, f"level 'inner': group_size is -1; {INTEGER}"),
    (level, {"capacity_factor_train": 0}, f"level 'inner': capacity_factor_train is 0; {NUMBER}"),
    (
        level,
        {"capacity_factor_eval": float("nan")},
        f"level 'inner': capacity_factor_eval is nan; {NUMBER}",
    ),
    (
        level,
        {"min_capacity": -1},
        "level 'inner': min_capacity is -1; it must be an integer of at least 0",
    ),
    (level, {"balance_loss_coef": -0.1}, f"level 'inner': balance_loss_coef is -0.1; {FROM_0}"),
    (level, {"z_loss_coef": "a"}, f"level 'inner': z_loss_coef is 'a'; {FROM_0}"),
    (level, {"second_place_loss": 1}, f"level 'inner': second_place_loss is 1; {BOOLEAN}"),
    (
        level,
        {"second_place_loss": True, "router": hmoe.TopKRouter(k=1)},
        "level 'inner': second_place_loss is True, but its router makes one choice a token; use k of"
        " at least 2 or second_place_loss = False",
    ),
    (level, {"examples_per_group": 0}, f"level 'inner': examples_per_group is 0; {NUMBER}"),
    (
        level,
        {"balance_loss_over": "device"},
        "level 'inner': balance_loss_over is 'device'; it must be one of group, example, batch",
    ),
    (
        level,
        {"balance_loss_mean_over": "slots"},
        "level 'inner': balance_loss_mean_over is 'slots'; it must be one of tokens, positions",
    ),
    (
        level,
        {"balance_loss_mean_over": "positions", "balance_loss_over": "example"},
        "level 'inner': balance_loss_mean_over is 'positions', but balance_loss_over is 'example', and"
        " at inner levels an example has no positions of its own; use 'tokens', or average over groups or"
        " the batch",
    ),
    (
        level,
        {"balance_loss_choices": "last"},
        "level 'inner': balance_loss_choices is 'last'; it must be one of first, all",
    ),
    (
        level,
        {"balance_loss_over": "batch", "router": hmoe.ExpertChoiceRouter()},
        "level 'inner': balance_loss_over is 'batch', but ExpertChoiceRouter"
        " has no such loss, since experts choose; leave balance_loss_over at 'group'",
    ),
    (hmoe.TopKRouter, {"k": 0}, f"TopKRouter: k is 0; {INTEGER}"),
    (hmoe.TopKRouter, {"policy_train": "some"}, f"TopKRouter: policy_train is 'some'; {POLICIES}"),
    (hmoe.TopKRouter, {"policy_eval": None}, f"TopKRouter: policy_eval is None; {POLICIES}"),
    (hmoe.TopKRouter, {"threshold_train": 0}, f"TopKRouter: threshold_train is 0; {NUMBER}"),
    (hmoe.TopKRouter, {"threshold_eval": -1}, f"TopKRouter: threshold_eval is -1; {NUMBER}"),
    (hmoe.TopKRouter, {"weight_norm": 0}, f"TopKRouter: weight_norm is 0; {NUMBER}"),
    (
        hmoe.TopKRouter,
        {"retries": -1},
        "TopKRouter: retries is -1; it must be an integer of at least 0",
    ),
    (hmoe.TopKRouter, {"priority": 1}, f"TopKRouter: priority is 1; {BOOLEAN}"),
    (
        hmoe.TopKRouter,
        {"bias_update_rate": -0.1},
        f"TopKRouter: bias_update_rate is -0.1; {FROM_0}",
    ),
    (
        hmoe.TopKRouter,
        {"gate": "softmax"},
        "TopKRouter: gate is 'softmax'; it must be an object such as hmoe.Gate(), or None (in gin:"
        " @hmoe.Gate(), with the brackets)",
    ),
    (
        hmoe.TopKRouter,
        {"gate": hmoe.Gate(explore_probability=0.5, explore_temperature=2.0)},
        "TopKRouter: k is 2, but its gate has explore_temperature = 2.0, which leaves a token one"
        " expert; use k = 1, or explore_temperature = None",
    ),
    (
        hmoe.TopKRouter,
        {"bias_update_rate": 0.1, "gate": hmoe.Gate(explore_probability=0.5)},
        "TopKRouter: bias_update_rate is 0.1, but its gate has explore_probability = 0.5, and the bias"
        " could bring back the expert that exploring leaves out; set one of them to None or 0",
    ),
    (
        hmoe.SwitchRouter,
        {"selection_train": "max"},
        "SwitchRouter: selection_train is 'max'; it must be one of argmax, sample",
    ),
    (
        hmoe.SwitchRouter,
        {"selection_eval": None},
        "SwitchRouter: selection_eval is None; it must be one of argmax, sample",
    ),
    (hmoe.SwitchRouter, {"temperature": 0}, f"SwitchRouter: temperature is 0; {NUMBER}"),
    (
        hmoe.SwitchRouter,
        {"selection_train": "sample", "bias_update_rate": 0.1},
        "SwitchRouter: bias_update_rate is 0.1, but experts are sampled from the logits, which the"
        " bias does not change; use selection 'argmax', or bias_update_rate = None",
    ),
    (
        hmoe.ExpertChoiceRouter,
        {"softmax_over": "groups"},
        "ExpertChoiceRouter: softmax_over is 'groups'; it must be one of experts, tokens",
    ),
    (
        hmoe.ExpertChoiceRouter,
        {"allow_in_decoder": 1},
        f"ExpertChoiceRouter: allow_in_decoder is 1; {BOOLEAN}",
    ),
    (
        hmoe.ExpertChoiceRouter,
        {"softmax_over": "tokens", "gate": hmoe.Gate(function="sigmoid")},
        "ExpertChoiceRouter: softmax_over is 'tokens', but its gate has function = 'sigmoid'; use a"
        " softmax gate, or softmax_over = 'experts'",
    ),
    (
        hmoe.ExpertChoiceRouter,
        {"gate": hmoe.Gate(explore_probability=0.5)},
        "ExpertChoiceRouter: its gate has explore_probability = 0.5, but no token has a best expert"
        " here; set it to 0",
    ),
    (hmoe.UniformRouter, {"weight_norm": 0}, f"UniformRouter: weight_norm is 0; {NUMBER}"),
    (
        hmoe.Gate,
        {"function": "relu"},
        "Gate: function is 'relu'; it must be one of softmax, sigmoid",
    ),
    (
        hmoe.Gate,
        {"jitter": 1.0},
        "Gate: jitter is 1.0; it must be a number of at least 0 and below 1",
    ),
    (
        hmoe.Gate,
        {"input_dropout": -1},
        "Gate: input_dropout is -1; it must be a number of at least 0 and below 1",
    ),
    (hmoe.Gate, {"use_bias": "yes"}, f"Gate: use_bias is 'yes'; {BOOLEAN}"),
    (hmoe.Gate, {"kernel_stddev": 0}, f"Gate: kernel_stddev is 0; {NUMBER}"),
    (
        hmoe.Gate,
        {"word_embeddings": "multiply"},
        "Gate: word_embeddings is 'multiply'; it must be one of concat, concat_stop_grad, add,"
        " add_stop_grad, embed_only, embed_only_stop_grad",
    ),
    (
        hmoe.Gate,
        {"word_embeddings": "embed_only", "jitter": 0.1},
        "Gate: word_embeddings is 'embed_only', which leaves out the inputs that jitter = 0.1 and"
        " input_dropout = 0.0 disturb; set both to 0, or word_embeddings to 'add' or 'concat'",
    ),
    (
        hmoe.Gate,
        {"explore_probability": 1.5},
        "Gate: explore_probability is 1.5; it must be a number from 0 to 1",
    ),
    (
        hmoe.Gate,
        {"explore_temperature": 2.0},
        "Gate: explore_temperature is 2.0, but explore_probability is 0, so that nothing is explored;"
        " set it too, or explore_temperature to None",
    ),
    (
        hmoe.FeedForwardExperts,
        {"hidden_size": 0},
        f"FeedForwardExperts: hidden_size is 0; {INTEGER}",
    ),
    (hmoe.SharedExpert, {"hidden_size": None}, f"SharedExpert: hidden_size is None; {INTEGER}"),
    (
        hmoe.FeedForwardExperts,
        {"hidden_size": 3, "activation": []},
        "FeedForwardExperts: activation is empty; give a name such as 'relu', or several for a gated"
        " layer such as ['gelu', 'linear']",
    ),
    (
        hmoe.FeedForwardExperts,
        {"hidden_size": 3, "activation": "rellu"},
        "FeedForwardExperts: activation is 'rellu', but mesh-tensorflow has no function 'rellu'; use"
        " one such as 'relu', 'gelu', 'swish' or 'linear'",
    ),
    (
        hmoe.FeedForwardExperts,
        {"hidden_size": 3, "use_bias": None},
        f"FeedForwardExperts: use_bias is None; {BOOLEAN}",
    ),
    (
        hmoe.FeedForwardExperts,
        {"hidden_size": 3, "dropout_rate": 1},
        "FeedForwardExperts: dropout_rate is 1; it must be a number of at least 0 and below 1",
    ),
    (
        hmoe.SharedExpert,
        {"hidden_size": 3, "output_dropout_rate": -1},
        "SharedExpert: output_dropout_rate is -1; it must be a number of at least 0 and below 1",
    ),
    (
        layer,
        {"levels": []},
        "HierarchicalMoE: levels is []; give a list of one to 3 hmoe.Level, outermost first",
    ),
    (
        layer,
        {"levels": level},
        f"HierarchicalMoE: levels is {level!r}; give a list of one to 3 hmoe.Level, outermost first",
    ),
    (
        layer,
        {"levels": [level(n) for n in "abcd"]},
        "HierarchicalMoE: there are 4 levels; 3 are the most. Merge levels by multiplying their"
        " numbers of experts",
    ),
    (
        layer,
        {"levels": [level(), 5]},
        "HierarchicalMoE: levels[1] is 5; it must be an hmoe.Level (in gin: @outer/hmoe.Level(), with"
        " the brackets)",
    ),
    (
        layer,
        {"levels": [level(), level()]},
        "HierarchicalMoE: 2 levels are called 'inner'; metrics and losses need a name for each, such"
        " as 'outer' and 'inner'",
    ),
    (
        layer,
        {"experts": 5},
        "HierarchicalMoE: experts is 5; it must be an object such as hmoe.FeedForwardExperts"
        "(hidden_size=2048) (in gin: @hmoe.FeedForwardExperts(), with the brackets)",
    ),
    (
        layer,
        {"shared_expert": hmoe.SharedExpert},
        f"HierarchicalMoE: shared_expert is {hmoe.SharedExpert!r}; it must be an object such as"
        " hmoe.SharedExpert(hidden_size=2048), or None (in gin: @hmoe.SharedExpert(), with the"
        " brackets)",
    ),
    (
        layer,
        {"shared_expert": False},
        "HierarchicalMoE: shared_expert is False; it must be an object such as"
        " hmoe.SharedExpert(hidden_size=2048), or None (in gin: @hmoe.SharedExpert(), with the"
        " brackets)",
    ),
    (layer, {"aux_loss_factor": -1}, f"HierarchicalMoE: aux_loss_factor is -1; {FROM_0}"),
    (
        layer,
        {"router_z_loss_factor": None},
        f"HierarchicalMoE: router_z_loss_factor is None; {FROM_0}",
    ),
    (layer, {"exact_groups": "yes"}, f"HierarchicalMoE: exact_groups is 'yes'; {BOOLEAN}"),
    (layer, {"inserted_outer_batch": 0}, f"HierarchicalMoE: inserted_outer_batch is 0; {INTEGER}"),
    (
        layer,
        {"inserted_outer_batch": -2},
        f"HierarchicalMoE: inserted_outer_batch is -2; {INTEGER}",
    ),
    (
        layer,
        {"metrics": True},
        "HierarchicalMoE: metrics is True; it must be one of brief, full, off",
    ),
    (
        layer,
        {
            "experts": hmoe.FeedForwardExperts(hidden_size=3, output_names=["a", "b"]),
            "shared_expert": hmoe.SharedExpert(hidden_size=3),
        },
        "HierarchicalMoE: the experts have 2 outputs, to which a shared expert's one cannot be added;"
        " set shared_expert to None, or give the experts one output",
    ),
    (layer, {"seed": -1}, "HierarchicalMoE: seed is -1; it must be an integer of at least 0"),
]


@pytest.mark.parametrize(
    ("make", "arguments", "text"), CASES, ids=[f"{c[0].__name__}-{next(iter(c[1]))}" for c in CASES]
)
def test_text(make, arguments, text):
    with pytest.raises(ValueError) as error:
        make(**arguments)
    assert str(error.value) == text


def test_layout_is_checked_before_anything_is_built():
    with tf.Graph().as_default() as tf_graph:
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        x = mtf.zeros(mesh, graphs.mtf_dims([("batch", 4), ("d_model", 3)]))
        before = (len(graph.operations), len(tf_graph.get_operations()))
        with pytest.raises(ValueError, match="cannot share; use a multiple of 4"):
            layer()(x, x.shape.dims[-1], train=True, mesh_shape="rows:4", layout="experts:rows")
        assert (len(graph.operations), len(tf_graph.get_operations())) == before


TOKENS = (("batch", 4), ("length", 6), ("d_model", 3))


def run(moe, **more):
    return run_layer(moe, seeded.tokens_of(TOKENS), TOKENS, gradients=False, **more)


def test_word_embeddings_must_be_given_and_can_be_put_behind_an_unsplit_depth_only():
    router = hmoe.TopKRouter(gate=hmoe.Gate(word_embeddings="concat"))
    moe = layer([level(router=router)])
    with pytest.raises(ValueError) as error:
        run(moe)
    assert str(error.value) == (
        "level 'inner': word_embeddings is 'concat', which needs embeddings of the shape of inputs,"
        " Shape[batch=4, length=6, d_model=3], but none are given; give embeddings=..., or set"
        " word_embeddings to None"
    )
    with pytest.raises(ValueError) as error:
        run(moe, mesh_shape="rows:3", layout="d_model:rows")
    assert str(error.value) == (
        "level 'inner': word_embeddings is 'concat', but layout rule 'd_model:rows' splits the"
        " depth, along which nothing can be put behind it; use 'add' or 'embed_only', or remove the"
        " rule"
    )


def test_more_examples_than_there_are_make_no_group():
    with pytest.raises(ValueError) as error:
        run(layer([level(examples_per_group=5.5)]))
    assert str(error.value) == (
        "level 'inner': examples_per_group = 5.5 makes groups of 33 tokens, but there are 24 to"
        " make groups of, which is 4 examples; use at most that many, or a larger batch"
    )


def test_capacity_factor_that_results_is_said_where_it_is_another(caplog):
    with caplog.at_level(logging.INFO, "hmoe.layer.capacity"):
        run(layer([level(capacity_factor_train=0.5, min_capacity=9)]))
        run(layer([level(capacity_factor_train=0.5, min_capacity=1)]))
    said = [
        record.getMessage() for record in caplog.records if record.name == "hmoe.layer.capacity"
    ]
    assert said == [
        "level 'inner': capacity factor 0.5 asked for, 0.75 resulted: 9 slots for each"
        " of 2 experts in a group of 24 tokens (min_capacity = 9)"
    ]


def test_k_above_the_number_of_experts_is_said(caplog):
    dims = (("batch", 4), ("d_model", 3))
    with caplog.at_level(logging.WARNING, "hmoe.routing"):
        moe = layer([level(router=hmoe.TopKRouter(k=3, policy_train="all"))])
        run_layer(moe, seeded.tokens_of(dims), dims, gradients=False)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("hmoe")]
    assert said == ["level 'inner': k = 3, but it has 2 expert(s); each token goes to all of them"]


def test_attribute_that_the_package_lacks():
    with pytest.raises(AttributeError) as error:
        hmoe.Levels  # noqa: B018
    assert str(error.value) == "module 'hmoe' has no attribute 'Levels'"
    assert all(getattr(hmoe, name) for name in hmoe.__all__)


TOKENS_OF_CALL = (("batch", 4), ("length", 6), ("d_model", 7))


def call(**changed):
    """One call on tokens [4, 6, 7], with some arguments changed."""
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        dims = graphs.mtf_dims(TOKENS_OF_CALL)
        given = {
            "inputs": graphs.constant(mesh, seeded.tokens_of(TOKENS_OF_CALL), dims),
            "output_dim": mtf.Dimension("d_out", 5),
            "train": True,
            **changed,
        }
        if "importance" in given and given["importance"] != "all":
            size = given["importance"]
            given["importance"] = mtf.ones(mesh, mtf.Shape([mtf.Dimension("length", size)]))
        layer()(**given)


CALLS = [
    (
        {"inputs": 3},
        "inputs is 3; it must be an mtf.Tensor of floating-point numbers [batch, ..., depth]",
    ),
    (
        {"output_dim": 5},
        "output_dim is 5; it must be an mtf.Dimension such as mtf.Dimension('d_model', 512)",
    ),
    ({"train": "yes"}, f"train is 'yes'; {BOOLEAN}"),
    ({"drop_tokens": "False"}, f"drop_tokens is 'False'; {BOOLEAN}"),
    ({"causal": 1}, f"causal is 1; {BOOLEAN}"),
    ({"num_microbatches": 0}, f"num_microbatches is 0; {INTEGER}"),
    (
        {"variable_dtype": "float32"},
        "variable_dtype is 'float32'; it must be an mtf.VariableDType such as"
        " mtf.VariableDType(tf.float32), or None",
    ),
    (
        {"importance": "all"},
        "importance is 'all'; it must be an mtf.Tensor with a number for each token, or None",
    ),
    (
        {"importance": 5},
        "importance has the dimensions Shape[length=5], but the tokens of inputs have Shape[batch=4,"
        " length=6]; give one number for each token, or for each index of some of these dimensions",
    ),
]


@pytest.mark.parametrize(
    ("changed", "message"),
    CALLS,
    ids=[f"{name}-{value}" for each, _ in CALLS for name, value in each.items()],
)
def test_error_of_a_call(changed, message):
    with pytest.raises(ValueError) as error:
        call(**changed)
    assert str(error.value) == f"HierarchicalMoE: {message}"


def test_numbers_of_numpy_are_taken():
    one = level(
        num_experts=np.int64(4), group_size=np.int32(8), capacity_factor_train=np.float32(1.15)
    )
    assert (one.num_experts, one.group_size, one.capacity_factor_train) == (4, 8, 1.15)
    assert type(one.num_experts) is int
    assert type(one.capacity_factor_train) is float
    with pytest.raises(ValueError) as error:
        level(group_size=np.float64(8.5))
    assert str(error.value) == f"level 'inner': group_size is {np.float64(8.5)!r}; {INTEGER}"
    call(importance=6)
