from __future__ import annotations

import types

import numpy as np
import pytest
from mesh_tensorflow.transformer import transformer

from hmoe.compat.stack import mtf
from hmoe.t5.graphs import call_model
from tests.t5 import tiny_t5

LAYERS = "transformer.make_layer_stack.layers = [@transformer_layers.SelfAttention, @hmoe.MoELayer]"


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_padding_of_an_unpacked_language_model_reaches_no_expert(mode: str) -> None:
    targets = tiny_t5.tokens(2)
    # One position of padding, which the inputs alone would not show.
    targets[0] = [3, 4, 5, 6, 1, 0]
    assert targets.shape[1] == 6

    def build(mesh: mtf.Mesh) -> dict:
        model = transformer.Unitransformer(
            layer_stack=transformer.make_layer_stack(),
            input_vocab_size=tiny_t5.VOCAB,
            output_vocab_size=tiny_t5.VOCAB,
            autoregressive=True,
            name="decoder",
        )
        settings = types.SimpleNamespace(
            transformer_model=model,
            model_type="lm",
            variable_dtype=mtf.VariableDType(),
            replayed=(),
        )
        features = {"targets": tiny_t5.import_tokens(mesh, targets, 2)}
        _, _, records = call_model.call_model(settings, features, mode)
        return {"reached": records[0].sums["reached"]}

    with tiny_t5.configured(LAYERS):
        tokens = tiny_t5.run(tiny_t5.lower(build))["reached"][0]
    assert tokens == np.count_nonzero(targets)
