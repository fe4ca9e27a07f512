from __future__ import annotations

import gin
import numpy as np
import pytest
from mesh_tensorflow.transformer import transformer

from hmoe.compat.stack import mtf, tf
from hmoe.t5 import configurables
from hmoe.t5.layers import metric_collection, moe_layer
from tests import tolerances
from tests.t5 import tiny_t5

MESHES = {"2x2": "rows:2;cols:2", "4x2": "rows:4;cols:2"}
ROOMY = "hmoe.Level.capacity_factor_eval = 8.0"
ALL = "hmoe.TopKRouter.policy_train = 'all'"


def _train(mesh_shape="", layout="", **kwargs):
    return tiny_t5.run(
        tiny_t5.lower(
            lambda mesh: tiny_t5.training(mesh, mesh_shape, layout, **kwargs), mesh_shape, layout
        )
    )


@pytest.mark.slow
def test_training_is_the_same_on_a_mesh():
    # 4 outer batches of 2 sequences of 6 tokens: cols splits them into groups of 6.
    same_groups = (
        "hmoe.Level.group_size = 6",
        "inner/hmoe.Level.group_size = 2",
        "hmoe.HierarchicalMoE.exact_groups = True",
    )
    with tiny_t5.configured(*same_groups):
        alone = _train(outer=4)
        for name, shape in MESHES.items():
            # An inner expert dimension of 2 cannot be shared by 4 rows.
            layout = (
                tiny_t5.LAYOUT if name == "2x2" else tiny_t5.LAYOUT.replace(";expert_y:rows", "")
            )
            split = _train(shape, layout, outer=4)
            assert set(split) == set(alone)
            for key, value in alone.items():
                np.testing.assert_allclose(
                    split[key], value, **tolerances.MESHES, err_msg=f"{key} on {name}"
                )


def test_metrics_of_every_layer_are_collected_by_its_name():
    with tiny_t5.configured():
        values = _train()
    for layer in ("encoder/block_000/layer_001", "decoder/block_000/layer_002"):
        assert values[f"{layer}/outer/losses"].shape == (6,)
        assert values[f"{layer}/outer/tokens"][0] > 0
        assert values[f"{layer}/inner/load"].shape == (4, 2)


def test_losses_of_the_layers_join_the_training_loss():
    with tiny_t5.configured(ALL):
        values = _train()
    with tiny_t5.configured(ALL, "hmoe.Level.balance_loss_coef = 0.0"):
        without = _train()
    added = tiny_t5.weighted_losses(values)
    assert added > 0
    np.testing.assert_allclose(values["loss"] - without["loss"], added, rtol=1e-4)


def test_padding_of_inputs_takes_no_capacity():
    with tiny_t5.configured():
        values = _train()
    real = (tiny_t5.tokens(1) != 0).sum()
    assert values["encoder/block_000/layer_001/reached"][0] == real


def test_every_other_layer():
    layers = (
        "encoder/transformer.make_layer_stack.layers = [@transformer_layers.SelfAttention,"
        " @transformer_layers.DenseReluDense, @transformer_layers.SelfAttention,"
        " @hmoe.MoELayer]"
    )
    with tiny_t5.configured(layers):
        values = _train()
    assert "gradient encoder/block_000/layer_001/DenseReluDense/wi/kernel" in values
    assert "encoder/block_000/layer_003/outer/losses" in values


def _decoded(mesh_shape="", layout="", beam_size=1):
    def build(mesh):
        model = tiny_t5.bitransformer(mesh_shape, layout)
        ids = tiny_t5.import_tokens(mesh, tiny_t5.tokens(1))
        if beam_size == 1:
            return {"ids": model.decode(ids, temperature=0.0)}
        return {"ids": model.decode(ids, beam_size=beam_size, temperature=0.0)}

    return tiny_t5.run(tiny_t5.lower(build, mesh_shape, layout))["ids"]


@pytest.mark.parametrize(
    "beam_size", [pytest.param(1, id="greedy"), pytest.param(3, id="beam", marks=pytest.mark.slow)]
)
def test_decoding_is_the_same_on_a_mesh(beam_size):
    with tiny_t5.configured(ROOMY):
        alone = _decoded(beam_size=beam_size)
        split = _decoded(MESHES["2x2"], tiny_t5.LAYOUT, beam_size)
    assert (alone != 0).any()
    np.testing.assert_array_equal(split, alone)


def test_decoding_equals_teacher_forcing_where_nothing_overflows():
    with tiny_t5.configured(ROOMY):
        decoded = _decoded()
        predicted = _train(targets=decoded, mode="eval")["logits"].argmax(-1)
    predicted = predicted.reshape(decoded.shape)
    # After its end a sequence holds padding, which nothing predicts.
    real = decoded != 0
    np.testing.assert_array_equal(predicted[real], decoded[real])


def test_scores_are_of_the_distribution_that_decoding_uses():
    """At capacities where evaluation drops most tokens, of both stacks."""
    tight = [
        "hmoe.Level.capacity_factor_eval = 0.1",
        "hmoe.TopKRouter.policy_eval = 'random'",
        "hmoe.TopKRouter.threshold_eval = 0.9",
    ]
    with tiny_t5.configured(*tight):
        decoded = _decoded()
        scored = _train(targets=decoded, mode="score", outer=0)["logits"].argmax(-1)
        evaluated = _train(targets=decoded, mode="eval", outer=0)["logits"].argmax(-1)
    real = decoded != 0
    np.testing.assert_array_equal(scored.reshape(decoded.shape)[real], decoded[real])
    assert (evaluated.reshape(decoded.shape)[real] != decoded[real]).any()


def test_decoding_drops_nothing_at_any_capacity():
    tight = "hmoe.Level.capacity_factor_eval = 0.1"
    encoder = "encoder/transformer.make_layer_stack.layers = [@transformer_layers.DenseReluDense]"
    with tiny_t5.configured(ROOMY, encoder):
        roomy = _decoded()
    with tiny_t5.configured(tight, encoder):
        np.testing.assert_array_equal(_decoded(), roomy)


@pytest.mark.slow
def test_scores_without_outer_batch_are_the_same_on_a_mesh():
    pinned = "hmoe.HierarchicalMoE.inserted_outer_batch = 2"
    with tiny_t5.configured(pinned):
        alone = _train(mode="score", outer=0)["logits"]
        split = _train(MESHES["2x2"], tiny_t5.LAYOUT, mode="score", outer=0)["logits"]
    np.testing.assert_allclose(split, alone, **tolerances.MESHES)


def _language_model(targets, sequence_id=False):
    def build(mesh):
        model = transformer.Unitransformer(
            layer_stack=transformer.make_layer_stack(),
            input_vocab_size=tiny_t5.VOCAB,
            output_vocab_size=tiny_t5.VOCAB,
            autoregressive=True,
            name="decoder",
        )
        ids = tiny_t5.import_tokens(mesh, targets, 2)
        with metric_collection.collecting() as records:
            logits, loss = model.call_simple(
                transformer.autoregressive_inputs(ids), ids, compute_loss=True, mode="eval"
            )
        return {"logits": logits, "loss": loss, "reached": records[0].sums["reached"]}

    return tiny_t5.run(tiny_t5.lower(build))


LANGUAGE_MODEL = (
    "transformer.make_layer_stack.layers = [@transformer_layers.SelfAttention, @hmoe.MoELayer]"
)


def test_decoder_only_without_a_mask_takes_padding_from_its_targets():
    targets = tiny_t5.tokens(2)
    targets[:, -1] = 0
    with tiny_t5.configured(LANGUAGE_MODEL):
        values = _language_model(targets)
    # The last position follows the last target where that is real.
    unknown = (targets[:, -2] != 0).sum()
    assert (targets != 0).sum() <= values["reached"][0] <= (targets != 0).sum() + unknown


def test_recomputed_gradients_are_refused():
    with (
        tiny_t5.configured("transformer.LayerStack.recompute_grads = True"),
        pytest.raises(ValueError) as error,
    ):
        _train()
    assert str(error.value).startswith(
        "hmoe.MoELayer: transformer.LayerStack.recompute_grads is True, with which no layer can add"
        " a loss; set it to False. To save memory raise the number of microbatches"
        " (serialize_num_microbatches.tokens_per_microbatch_per_replica)"
    )


def test_ensembles_are_refused():
    with (
        tiny_t5.configured("transformer.Unitransformer.ensemble = 3"),
        pytest.raises(ValueError) as error,
    ):
        _train()
    assert str(error.value).startswith(
        "hmoe.MoELayer: the model is an ensemble (transformer.Unitransformer.ensemble = 3); experts"
        " of ensembles are not supported: set it to None"
    )


def test_collections_nest_and_close():
    with metric_collection.collecting() as outer:
        metric_collection.record("a", {}, None)
        with metric_collection.collecting() as inner:
            metric_collection.record("b", {}, None)
        metric_collection.record("c", {}, None)
    metric_collection.record("d", {}, None)
    assert [each.name for each in outer] == ["a", "c"]
    assert [each.name for each in inner] == ["b"]


def test_bfloat16_activations_train():
    with tiny_t5.configured():

        def build(mesh):
            model = tiny_t5.bitransformer("", "")
            _, loss = model.call_simple(
                tiny_t5.import_tokens(mesh, tiny_t5.tokens(1), 2),
                tiny_t5.import_tokens(mesh, tiny_t5.tokens(2), 2),
                compute_loss=True,
                mode="train",
                variable_dtype=mtf.VariableDType(tf.float32, tf.float32, tf.bfloat16),
            )
            grads = mtf.gradients([loss], [v.outputs[0] for v in mesh.graph.trainable_variables])
            return {"loss": mtf.cast(loss, tf.float32), "gradient": mtf.cast(grads[0], tf.float32)}

        values = tiny_t5.run(tiny_t5.lower(build))
    assert np.isfinite(values["loss"])
    assert np.abs(values["gradient"]).max() > 0


@pytest.mark.parametrize("layer", ["MoELayer", "ExpertsSelfAttention", "ExpertsEncDecAttention"])
def test_arguments_of_the_mixture_say_where_they_belong(layer):
    binding = f"hmoe.{layer}.levels = [@outer/hmoe.Level(), @inner/hmoe.Level()]"
    with tiny_t5.configured(binding), pytest.raises(ValueError) as error:
        getattr(configurables, layer)()
    assert str(error.value).split("\n")[0] == (
        f"hmoe.{layer}.levels: levels is an argument of hmoe.HierarchicalMoE; in gin, write"
        " hmoe.HierarchicalMoE.levels = ... in its place, and"
        f" hmoe.{layer}.moe = @hmoe.HierarchicalMoE()"
    )


def test_an_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="^hmoe.MoELayer has no argument 'levelz'$"):
        moe_layer.MoELayer(levelz=[])


def test_a_mixture_is_required():
    with pytest.raises(ValueError) as error:
        moe_layer.MoELayer()
    assert str(error.value) == (
        "hmoe.MoELayer: moe is None; it must be an object such as hmoe.HierarchicalMoE(levels=...,"
        " experts=...) (in gin: @hmoe.HierarchicalMoE(), with the brackets)"
    )


def test_experts_with_several_outputs_are_refused():
    gin.clear_config()
    gin.parse_config(
        """
        hmoe.MoELayer.moe = @hmoe.HierarchicalMoE()
        hmoe.HierarchicalMoE.levels = [@hmoe.Level()]
        hmoe.HierarchicalMoE.experts = @hmoe.FeedForwardExperts()
        hmoe.FeedForwardExperts.hidden_size = 3
        hmoe.FeedForwardExperts.output_names = ["a", "b"]
        hmoe.Level.name = "one"
        hmoe.Level.num_experts = 2
        hmoe.Level.router = @hmoe.TopKRouter()
        """
    )
    with pytest.raises(ValueError) as error:
        configurables.MoELayer()
    gin.clear_config()
    assert str(error.value).startswith(
        "hmoe.MoELayer: the experts have 2 outputs (hmoe.FeedForwardExperts.output_names = ['a', "
        "'b']), but the layer adds one to each token; leave output_names out. Attention with "
        "experts (hmoe.ExpertsSelfAttention) names the outputs that it needs by itself"
    )
