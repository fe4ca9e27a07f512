"""The translations of docs/from_upstream.md: they parse, and compute what upstream computes."""

from __future__ import annotations

import os
import re
import zlib

import gin
import numpy as np
import pytest
from mesh_tensorflow.transformer import moe as upstream_moe

from hmoe.t5.graphs import batch_features as feature_lib
from hmoe.t5.graphs import call_model
from hmoe.t5.sessions import warm_start
from tests import meshes
from tests.gin import configs
from tests.gin.configs import mtf, tf

DOC = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "from_upstream.md")

# The files leave the model's size open. With a batch of 16, groups of 16 fill at both levels, so
# that upstream, which may take larger ones than it is asked for, has the same.
SIZES = [
    "models/_size_tiny.gin",
    "models/_dense.gin",
    "models/_stacks_every_layer.gin",
    "layouts/one_device.gin",
]
SMALL = [
    'utils.run.sequence_length = {"inputs": 16, "targets": 16}',
    "utils.run.batch_size = 16",
    "utils.run.train_steps = 1",
    "num_blocks = 1",
    "d_model = 12",
    "num_heads = 2",
    "d_kv = 5",
]


@gin.configurable(module="hmoe.tests")
class MoE2D(upstream_moe.MoE2D):
    """Upstream's two-level layer with the hparams that it forgets, and known to gin."""

    def __init__(
        self,
        expert_x,
        expert_y,
        hidden_size,
        group_size,
        capacity_factor_train,
        capacity_factor_eval,
        capacity_factor_second_level,
        loss_coef,
        use_second_place_loss,
        second_policy_train,
        second_policy_eval,
        second_threshold_train,
    ):
        hparams_class = upstream_moe.HParams
        missing = dict(
            moe_min_expert_capacity=4,
            moe_word_embed_mode=None,
            moe_z_loss=None,
            moe_use_second_place_expert_prob=None,
        )
        upstream_moe.HParams = lambda **given: hparams_class(**{**missing, **given})
        try:
            super().__init__(
                expert_x,
                expert_y,
                loss_coef,
                hidden_size,
                group_size,
                capacity_factor_train,
                capacity_factor_eval,
                capacity_factor_second_level,
                use_second_place_loss,
                second_policy_train,
                second_policy_eval,
                second_threshold_train,
            )
        finally:
            upstream_moe.HParams = hparams_class


LAYERS_OF_MOE2D = """
encoder/transformer.make_layer_stack.layers = [@transformer_layers.SelfAttention, @MoE2D]
decoder/transformer.make_layer_stack.layers = [
    @transformer_layers.SelfAttention, @transformer_layers.EncDecAttention, @MoE2D]
"""


def _doc():
    with open(DOC, encoding="utf-8") as file:
        return file.read()


def _block(title):
    """The gin file in the doc whose first line is this comment."""
    return re.search(rf"```gin\n# {re.escape(title)}\n(.*?)```", _doc(), re.DOTALL).group(1)


def _bindings(title):
    return [*SMALL, LAYERS_OF_MOE2D if title == "MoE2D" else "", _block(title)]


def _weights(name, shape):
    """The same for the same variable, whatever its layer's class is called."""
    name = re.sub("/(MoE1D|MoE2D|MoELayer)/", "/experts/", name)
    random = np.random.RandomState(zlib.crc32(name.encode()) % 2**31)
    centre = 1.0 if name.endswith("scale") else 0.0
    return (centre + 0.5 * random.randn(*shape)).astype(np.float32)


def _features(settings, padding):
    """Targets have no padding: upstream has no mask for unpacked ones."""
    random = np.random.RandomState(5)
    given = {
        name: random.randint(2, configs.VOCAB, [settings.batch_size, 16])
        for name in ("inputs", "targets")
    }
    if padding:
        given["inputs"][::2, 11:] = 0
    return {name: tf.constant(ids.astype(np.int32)) for name, ids in given.items()}


class _Model:
    """A model as gin describes it, with loss and gradients, in TensorFlow's default graph."""

    def __init__(self, settings, mode, padding=True):
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        tf.train.create_global_step()
        dims = feature_lib.batch_dims(settings, with_outer_batch=True)
        named = feature_lib.import_features(settings, mesh, _features(settings, padding), dims)
        logits, loss, _ = call_model.call_model(settings, named, mode)
        variables = graph.trainable_variables
        gradients = mtf.gradients([loss], [v.outputs[0] for v in variables])
        fetched = {"loss": loss, "logits": logits}
        fetched.update(
            (re.sub("/(MoE1D|MoE2D|MoELayer)/", "/experts/", v.name), gradient)
            for v, gradient in zip(variables, gradients)
        )
        whole = {name: mtf.anonymize(tensor) for name, tensor in fetched.items()}
        self.lowering = meshes.lower(mesh, autostack=False)
        self.fetches = {
            name: self.lowering.export_to_tf_tensor(tensor) for name, tensor in whole.items()
        }
        self.variables = variables

    def load_weights(self, session):
        session.run(tf.global_variables_initializer())
        for variable in self.variables:
            variable.get_master().load(
                _weights(variable.name, variable.shape.to_integer_list), session
            )
        session.run(self.lowering.copy_masters_to_slices())


def _computed(title, mode, tmp_path):
    with configs.parsed(SIZES, _bindings(title)), tf.Graph().as_default():
        # Upstream's balance loss of switch counts padding.
        model = _Model(configs.described(str(tmp_path)).settings, mode, "switch" not in title)
        with configs.session() as session:
            model.load_weights(session)
            return session.run(model.fetches)


LAYERS = ["MoE1D", "MoE1D with switch", "MoE1D with expert_selection", "MoE2D"]


@pytest.mark.parametrize(
    "title", [f"{layer}{end}" for layer in LAYERS for end in ("", ", translated")]
)
def test_files_of_the_page_parse(title):
    with configs.parsed(SIZES, _bindings(title)):
        assert gin.config_is_locked()


@pytest.mark.parametrize("mode", ["train", pytest.param("eval", marks=pytest.mark.slow)])
@pytest.mark.parametrize("layer", LAYERS)
def test_translation_computes_the_same(layer, mode, tmp_path):
    """Logits, loss and every gradient, to float32 rounding."""
    theirs = _computed(layer, mode, tmp_path)
    ours = _computed(f"{layer}, translated", mode, tmp_path)
    assert sorted(ours) == sorted(theirs)
    for name, value in theirs.items():
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(ours[name] / scale, value / scale, atol=1e-5, err_msg=name)


def test_checkpoint_of_moe1d_begins_a_translated_model(tmp_path):
    """With the mapping that the page names; all variables are found, outputs are equal."""
    path = str(tmp_path / "model.ckpt-3")
    with configs.parsed(SIZES, _bindings("MoE1D")), tf.Graph().as_default():
        model = _Model(configs.described(str(tmp_path)).settings, "eval")
        with configs.session() as session:
            model.load_weights(session)
            theirs = session.run(model.fetches["logits"])
            tf.train.Saver().save(session, path)
    mapping = re.search(r"`(init_checkpoint_variable_mapping.mapping_fn = [^`]+)`", _doc()).group(1)
    bindings = [*_bindings("MoE1D, translated"), mapping, f"utils.run.init_checkpoint = {path!r}"]
    with configs.parsed(SIZES, bindings), tf.Graph().as_default():
        settings = configs.described(str(tmp_path)).settings
        model = _Model(settings, "eval")
        said = warm_start.initialize(settings)
        with configs.session() as session:
            session.run(tf.global_variables_initializer())
            session.run(model.lowering.copy_masters_to_slices())
            ours = session.run(model.fetches["logits"])
    total = len(model.variables) + 1  # and the global step, which is the new run's own
    assert (
        said
        == f"{total - 1} of {total} variables are initialized from {path}; the others keep their own initial values"
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
