"""Attention whose queries and keys come from experts."""

from __future__ import annotations

import numpy as np
import pytest
from mesh_tensorflow.transformer import attention as upstream_attention
from mesh_tensorflow.transformer import transformer

import hmoe
from hmoe.compat.stack import mtf
from hmoe.experts import split_merge
from hmoe.t5.layers import attention
from tests import tolerances
from tests.t5 import tiny, tiny_t5

MESH = "rows:2;cols:2"
KINDS = ("qkv", "q", "kv")
ROOMY = "hmoe.Level.capacity_factor_eval = 8.0"
TWO_LEVELS = """
encoder/transformer.make_layer_stack.layers = [
    @hmoe.ExpertsSelfAttention, @transformer_layers.DenseReluDense]
decoder/transformer.make_layer_stack.layers = [
    @hmoe.ExpertsSelfAttention, @hmoe.ExpertsEncDecAttention, @transformer_layers.DenseReluDense]
hmoe.ExpertsSelfAttention.moe = @hmoe.HierarchicalMoE()
hmoe.ExpertsEncDecAttention.moe = @hmoe.HierarchicalMoE()
hmoe.HierarchicalMoE.levels = [@outer/hmoe.Level(), @inner/hmoe.Level()]
hmoe.HierarchicalMoE.experts = @hmoe.FeedForwardExperts()
"""
# Only the encoder has experts, so that its outputs alone differ between the two.
ONE_LEVEL = """
encoder/transformer.make_layer_stack.layers = [@LAYER, @transformer_layers.DenseReluDense]
decoder/transformer.make_layer_stack.layers = [
    @transformer_layers.SelfAttention, @transformer_layers.EncDecAttention]
hmoe.ExpertsSelfAttention.moe = @hmoe.HierarchicalMoE()
hmoe.ExpertsEncDecAttention.moe = @hmoe.HierarchicalMoE()
hmoe.HierarchicalMoE.levels = [@flat/hmoe.Level()]
hmoe.HierarchicalMoE.experts = @hmoe.FeedForwardExperts()
flat/hmoe.Level.name = "flat"
flat/hmoe.Level.num_experts = 4
hmoe.TopKRouter.policy_train = "all"
MoE1D.second_policy_train = "all"
MoE1D.second_policy_eval = "all"
"""
UPSTREAM = """
ExpertsSelfAttention.num_experts = 4
ExpertsSelfAttention.hidden_size = 12
ExpertsSelfAttention.group_size = 12
ExpertsSelfAttention.min_expert_capacity = 1
ExpertsSelfAttention.capacity_factor_eval = 8.0
ExpertsSelfAttention.moe_gating = "top_2"
ExpertsSelfAttention.shared_kv = True
""".replace("Experts", "transformer_layers.Experts")


def kind_of(kind):
    return (
        f"hmoe.ExpertsSelfAttention.expert_computation = '{kind}'\n"
        f"hmoe.ExpertsEncDecAttention.expert_computation = '{kind}'\n"
        f"transformer_layers.ExpertsSelfAttention.expert_computation = '{kind}'"
    )


def one_level(layer):
    # Upstream's balance loss counts padding.
    mean = 'hmoe.Level.balance_loss_mean_over = "positions"\n'
    return ONE_LEVEL.replace("@LAYER", f"@{layer}.ExpertsSelfAttention") + mean


def train(mesh_shape="", layout="", **more):
    return tiny_t5.run(
        tiny_t5.lower(
            lambda mesh: tiny_t5.training(mesh, mesh_shape, layout, **more), mesh_shape, layout
        )
    )


def logits_of(inputs):
    """Logits in evaluation, for these inputs of the encoder."""

    def build(mesh):
        logits, _ = tiny_t5.bitransformer("", "").call_simple(
            tiny_t5.import_tokens(mesh, inputs),
            tiny_t5.import_tokens(mesh, tiny_t5.tokens(2)),
            compute_loss=False,
            mode="eval",
        )
        return {"logits": logits}

    return tiny_t5.run(tiny_t5.lower(build))["logits"]


def encoded(inputs):
    """Logits of one stack with no decoder: [batch, length, vocab]."""

    def build(mesh):
        model = transformer.Unitransformer(
            layer_stack=transformer.make_layer_stack(),
            input_vocab_size=tiny_t5.VOCAB,
            output_vocab_size=tiny_t5.VOCAB,
            autoregressive=False,
            name="stack",
            mesh_shape="",
            layout="",
        )
        logits, _ = model.call_simple(
            tiny_t5.import_tokens(mesh, inputs), None, compute_loss=False, mode="eval"
        )
        return {"logits": logits}

    return tiny_t5.run(tiny_t5.lower(build))["logits"]


def decoded(mesh_shape="", layout="", beam_size=1):
    def build(mesh):
        ids = tiny_t5.import_tokens(mesh, tiny_t5.tokens(1))
        return {
            "ids": tiny_t5.bitransformer(mesh_shape, layout).decode(
                ids, beam_size=beam_size, temperature=0.0
            )
        }

    return tiny_t5.run(tiny_t5.lower(build, mesh_shape, layout))["ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_level_equals_upstream_once_its_keys_are_renamed(kind, monkeypatch):
    """Fault of upstream that is mended here: keys keep the dimension of the queries."""
    monkeypatch.setattr(
        upstream_attention.ExpertsAttentionParams,
        "compute_kv",
        lambda self, memory: mtf.reshape(self._k, mtf.Shape(memory.shape.dims[:-1] + self.k_dims)),
    )
    with tiny_t5.configured(one_level("transformer_layers"), UPSTREAM, kind_of(kind)):
        theirs = train()
    with tiny_t5.configured(one_level("hmoe"), kind_of(kind)):
        ours = train()
    assert tiny_t5.weighted_losses(ours) > 0
    dense = {"qkv": set(), "q": {"kv"}, "kv": {"q"}}[kind]
    scope = "gradient encoder/block_000/layer_000/ExpertsSelfAttention/"
    assert {name for name in ("q", "kv") if scope + name in theirs} == dense
    for name, value in theirs.items():
        tolerances.assert_close(ours[name], value, tolerances.SAME, name)


@pytest.mark.parametrize(
    ("module", "kind", "reads"),
    [
        *[("hmoe", kind, True) for kind in KINDS],
        ("transformer_layers", "qkv", False),
        ("transformer_layers", "kv", False),
    ],
    ids=str,
)
def test_tokens_see_one_another(module, kind, reads):
    """Upstream's read themselves alone: a fault that is mended here."""
    before = tiny_t5.tokens(1, padding=False)
    after = np.array(before)
    after[:, 3] = 2 + (after[:, 3] - 1) % (tiny_t5.VOCAB - 2)
    stack = f"transformer.make_layer_stack.layers = [@{module}.ExpertsSelfAttention]"
    with tiny_t5.configured(one_level(module), stack, UPSTREAM, kind_of(kind), ROOMY):
        moved = np.abs(encoded(after) - encoded(before)).max(axis=(0, 2))
    assert moved[3] > 1e-2
    assert (np.delete(moved, 3).max() > 1e-3) == reads


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_reads_the_encoder(kind):
    before, after = tiny_t5.tokens(1), tiny_t5.tokens(7)
    with tiny_t5.configured(TWO_LEVELS, kind_of(kind), ROOMY):
        assert np.abs(logits_of(before) - logits_of(after)).max() > 1e-2


def test_upstreams_decoder_reads_no_encoder():
    """A fault that is mended here: keys are made of the queries' tokens."""
    layers = (
        "decoder/transformer.make_layer_stack.layers = [@transformer_layers.SelfAttention,"
        " @transformer_layers.ExpertsEncDecAttention]"
    )
    settings = UPSTREAM.replace("ExpertsSelf", "ExpertsEncDec")
    full = tiny_t5.tokens(1, padding=False), tiny_t5.tokens(7, padding=False)
    with tiny_t5.configured(layers, settings, "MoE1D.second_policy_eval = 'all'"):
        np.testing.assert_array_equal(logits_of(full[0]), logits_of(full[1]))


def test_names_sizes_and_metrics():
    with tiny_t5.configured(TWO_LEVELS):
        values = train()
    own = "decoder/block_000/layer_000/ExpertsSelfAttention"
    assert values[f"gradient {own}/q_wo/kernel"].shape == (2, 4, 12, 10)
    assert values[f"gradient {own}/k_wo/kernel"].shape == (2, 4, 12, 10)
    assert values[f"gradient {own}/o"].shape == (10, 16)
    memory = "decoder/block_000/layer_001"
    for part in ("queries", "keys"):
        scope = f"{memory}/ExpertsEncDecAttention/{part}"
        assert np.abs(values[f"gradient {scope}/wo/kernel"]).max() > 0
        assert np.abs(values[f"gradient {scope}/outer_gating/kernel"]).max() > 0
    # Padding takes no capacity, of the decoder's tokens and of the encoder's.
    assert values[f"{memory}/queries/reached"][0] == (tiny_t5.tokens(2) != 0).sum()
    assert values[f"{memory}/keys/reached"][0] == (tiny_t5.tokens(1) != 0).sum()
    added = tiny_t5.weighted_losses(values)
    with tiny_t5.configured(TWO_LEVELS, "hmoe.Level.balance_loss_coef = 0.0"):
        without = train()
    assert added > 0
    np.testing.assert_allclose(values["loss"] - without["loss"], added, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_equals_teacher_forcing(kind):
    with tiny_t5.configured(TWO_LEVELS, kind_of(kind), ROOMY):
        ids = decoded()
        predicted = train(targets=ids, mode="eval")["logits"].argmax(-1).reshape(ids.shape)
    real = ids != 0
    assert real.any()
    np.testing.assert_array_equal(predicted[real], ids[real])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "beam_size"), [("q", 1), ("kv", 1), ("qkv", 3)])
def test_decoding_is_the_same_on_a_mesh(kind, beam_size):
    with tiny_t5.configured(TWO_LEVELS, kind_of(kind), ROOMY):
        alone = decoded(beam_size=beam_size)
        split = decoded(MESH, tiny_t5.LAYOUT, beam_size)
    assert (alone != 0).any()
    np.testing.assert_array_equal(split, alone)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_on_a_mesh(kind):
    """Also where heads and the experts' hidden dimension are split over one axis."""
    same_groups = (
        "hmoe.Level.group_size = 6",
        "inner/hmoe.Level.group_size = 2",
        "hmoe.HierarchicalMoE.exact_groups = True",
    )
    with tiny_t5.configured(TWO_LEVELS, kind_of(kind), *same_groups):
        alone = train(outer=4)
        for shape, layout in (
            (MESH, tiny_t5.LAYOUT),
            ("rows:2;model:2", "outer_batch:rows;expert_y:rows;heads:model;expert_hidden:model"),
        ):
            split = train(shape, layout, outer=4)
            assert set(split) == set(alone)
            for name, value in alone.items():
                tolerances.assert_close(split[name], value, tolerances.MESHES, name)


def test_one_head():
    with tiny_t5.configured(TWO_LEVELS, "transformer_layers.SelfAttention.num_heads = 1"):
        values = train()
    assert values["gradient encoder/block_000/layer_000/ExpertsSelfAttention/o"].shape == (5, 16)


LEVELS = [hmoe.Level(name="flat", num_experts=2, router=hmoe.TopKRouter(k=2))]
MOE = hmoe.HierarchicalMoE(levels=LEVELS, experts=hmoe.FeedForwardExperts(hidden_size=3))
ONE_KEY = "; experts give one key a head, which is its value too: leave it at"


@pytest.mark.parametrize("make", [attention.ExpertsSelfAttention, attention.ExpertsEncDecAttention])
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"expert_computation": "v"}, "expert_computation is 'v'; it must be one of qkv, q, kv"),
        ({"shared_kv": False}, f"shared_kv is False{ONE_KEY} True"),
        ({"combine_dims": False}, f"combine_dims is False{ONE_KEY} True"),
        ({"num_memory_heads": 2}, f"num_memory_heads is 2{ONE_KEY} 0"),
        ({"keep_query_heads_dims": True}, f"keep_query_heads_dims is True{ONE_KEY} False"),
        (
            {"moe": 5},
            "moe is 5; it must be an object such as hmoe.HierarchicalMoE(levels=..., experts=...) (in"
            " gin: @hmoe.HierarchicalMoE(), with the brackets)",
        ),
        (
            {
                "moe": hmoe.HierarchicalMoE(
                    levels=LEVELS,
                    experts=hmoe.FeedForwardExperts(hidden_size=3, output_names=["a", "b"]),
                )
            },
            "the experts have output_names ['a', 'b']; this layer names their outputs: leave it out",
        ),
    ],
    ids=str,
)
def test_errors(make, settings, text):
    with pytest.raises(ValueError) as error:
        make(**{"moe": MOE, **settings})
    assert str(error.value) == f"hmoe.{make.__name__}: {text}"


def test_ensembles_are_refused():
    with (
        tiny_t5.configured(TWO_LEVELS, "transformer.Unitransformer.ensemble = 3"),
        pytest.raises(ValueError) as error,
    ):
        train()
    assert str(error.value).startswith(
        "hmoe.ExpertsSelfAttention: the model is an ensemble (transformer.Unitransformer.ensemble ="
        " 3); experts of ensembles are not supported: set it to None"
    )


def test_word_embeddings_of_the_encoder_are_refused():
    gate = ("hmoe.TopKRouter.gate = @hmoe.Gate()", "hmoe.Gate.word_embeddings = 'add'")
    with tiny_t5.configured(TWO_LEVELS, *gate, kind_of("q")):
        assert np.isfinite(train()["loss"])
    with tiny_t5.configured(TWO_LEVELS, *gate, kind_of("kv")), pytest.raises(ValueError) as error:
        train()
    assert str(error.value).startswith(
        "hmoe.ExpertsEncDecAttention: a gate asks for word embeddings (hmoe.Gate.word_embeddings),"
        " but a decoder has none of the encoder's tokens; use a gate without them, or"
        " expert_computation = 'q'"
    )


def test_experts_may_choose_among_the_encoders_tokens_but_not_the_decoders():
    chooses = (
        "hmoe.Level.router = @hmoe.ExpertChoiceRouter()",
        "decoder/transformer.make_layer_stack.layers = ["
        "@transformer_layers.SelfAttention, @hmoe.ExpertsEncDecAttention]",
    )
    with tiny_t5.configured(TWO_LEVELS, *chooses, kind_of("kv")):
        assert np.isfinite(train()["loss"])
    with (
        tiny_t5.configured(TWO_LEVELS, *chooses, kind_of("q")),
        pytest.raises(ValueError, match="in a decoder, where experts would choose among tokens"),
    ):
        train()


@pytest.mark.slow
def test_trains_with_microbatches_answers_and_splits(tmp_path):
    """On a mesh, by the same estimator as any other T5; biases of routers move."""
    layers = (
        "encoder/transformer.make_layer_stack.layers = [@hmoe.ExpertsSelfAttention,"
        " @hmoe.MoELayer]",
        "decoder/transformer.make_layer_stack.layers = [@transformer_layers.SelfAttention,"
        " @hmoe.ExpertsEncDecAttention, @transformer_layers.DenseReluDense]",
        "hmoe.ExpertsSelfAttention.moe = @hmoe.HierarchicalMoE()",
        "hmoe.ExpertsEncDecAttention.moe = @hmoe.HierarchicalMoE()",
        "serialize_num_microbatches.tokens_per_microbatch_per_replica = 16",
        "hmoe.TopKRouter.bias_update_rate = 0.1",
    )
    estimator = tiny.make(tmp_path, "hierarchical_tiny", "cpu_2x2", bindings=layers)
    # After an even number of steps a bias may be where it began.
    estimator.train(tiny.input_fn(tiny.ids(24)), max_steps=3)
    last = tiny.curves(tmp_path)[-1]
    assert np.isfinite(last["loss"])
    assert "decoder/block_000/layer_001/keys/outer/load_imbalance" in last
    weights = tiny.weights(tmp_path)
    scope = "decoder/block_000/layer_001/ExpertsEncDecAttention"
    for part in ("queries", "keys"):
        assert np.abs(weights[f"{scope}/{part}/inner_gating/balance_bias"]).max() > 0
    apart = split_merge.split_experts(weights)
    assert f"{scope}/keys/expert_1_0/wi_0/kernel" in apart
    assert "encoder/block_000/layer_000/ExpertsSelfAttention/expert_0_1/k_wo/kernel" in apart
    answers = [row["outputs"] for row in estimator.predict(tiny.input_fn(tiny.ids(8)))]
    assert len(answers) == 8
    assert np.any(answers)
