"""Training, resuming, decoding, scoring, evaluating and exporting in sessions."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hmoe.compat.stack import tf
from hmoe.t5.sessions import saved_model
from tests.t5 import tiny


def assert_same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert sorted(a) == sorted(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model after two steps."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.make(folder).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    return folder


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        ("dense_tiny", "one_device"),
        pytest.param("hierarchical_tiny", "cpu_2x2", marks=pytest.mark.slow),
    ],
)
def test_three_steps_and_three_more_are_six(tmp_path: Path, model: str, layout: str) -> None:
    data = tiny.ids(6 * tiny.BATCH)
    options = {"model": model, "layout": layout, "bindings": ["dropout_rate = 0.1"]}
    tiny.make(tmp_path / "a", **options).train(tiny.input_fn(data), max_steps=6)
    tiny.make(tmp_path / "b", **options).train(tiny.input_fn(data), max_steps=3)
    tiny.make(tmp_path / "b", **options).train(tiny.input_fn(data, skip=3), max_steps=6)
    assert_same_bits(tiny.weights(tmp_path / "a"), tiny.weights(tmp_path / "b"))
    drop = ("time", "steps_per_second", "tokens_per_second")
    curves = [
        [{k: v for k, v in line.items() if k not in drop} for line in tiny.curves(tmp_path / run)]
        for run in ("a", "b")
    ]
    assert curves[0] == curves[1]
    assert [line["step"] for line in curves[0]] == [1, 2, 3, 4, 5, 6]


def test_checkpoints_are_float32(trained: Path) -> None:
    dtypes = {name: value.dtype for name, value in tiny.weights(trained).items()}
    assert dtypes.pop("global_step") == np.int64
    assert set(dtypes.values()) == {np.dtype(np.float32)}


def test_get_variable_value(trained: Path) -> None:
    estimator = tiny.make(trained)
    assert estimator.get_variable_value("global_step") == 2
    assert estimator.latest_checkpoint() == str(trained / "model.ckpt-2")


def test_nothing_left_to_train(trained: Path) -> None:
    lines: list = []
    tiny.make(trained, lines=lines).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    assert lines == [
        f"{trained}/model.ckpt-2 is at step 2, and training is to stop at step 2: nothing to "
        "train; for more steps, raise utils.run.train_steps"
    ]


def test_loss_apart_from_output_z_loss(tmp_path: Path) -> None:
    losses = {}
    for z_loss in (0.0, 0.1):
        folder = tmp_path / str(z_loss)
        bindings = [
            f"decoder/Unitransformer.z_loss = {z_loss}",
            "decoder/Unitransformer.label_smoothing = 0.1",
        ]
        tiny.make(folder, bindings=bindings).train(tiny.input_fn(tiny.ids(8)), max_steps=1)
        losses[z_loss] = tiny.curves(folder)[0]
    # T5's loss divides by all positions, cross_ent_loss by the targets that are not padding.
    targets = tiny.ids(8)["targets"]
    share = np.count_nonzero(targets) / targets.size
    for each in losses.values():
        assert each["cross_ent_loss"] * share == pytest.approx(losses[0.0]["loss"], rel=1e-6)
    assert losses[0.1]["loss"] > losses[0.0]["loss"] + 0.1


def test_microbatches_add_up(tmp_path: Path) -> None:
    """A step of a dense model without dropout is the same for any number of microbatches."""
    numbers = {}
    for tokens in ("None", str(2 * tiny.LENGTH)):
        folder = tmp_path / tokens
        binding = f"serialize_num_microbatches.tokens_per_microbatch_per_replica = {tokens}"
        tiny.make(folder, bindings=[binding]).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
        numbers[tokens] = tiny.curves(folder)
    for whole, cut in zip(*numbers.values()):
        assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert cut["cross_ent_loss"] == pytest.approx(whole["cross_ent_loss"], rel=1e-5)


@pytest.mark.parametrize("beam_size", [1, 2])
def test_predict_returns_every_row(trained: Path, beam_size: int) -> None:
    bindings = [f"Bitransformer.decode.beam_size = {beam_size}"]
    estimator = tiny.make(trained, bindings=bindings)
    inputs = {"inputs": tiny.ids(16)["inputs"]}
    results = list(estimator.predict(tiny.input_fn(inputs)))
    assert len(results) == 16
    assert sorted(results[0]) == ["inputs", "outputs"]
    expected = [tiny.VOCABULARY.decode([i for i in row if i > 1]) for row in inputs["inputs"]]
    assert [tiny.text(r["inputs"]) for r in results] == expected
    assert all(r["outputs"].dtype == np.int32 for r in results)


def test_score_is_the_log_likelihood_of_evaluation(trained: Path) -> None:
    data = tiny.ids(16)
    scores = tiny.make(trained, score_in_predict_mode=True).predict(tiny.input_fn(data))
    total = sum(float(row["scores"]) for row in scores)
    numbers = tiny.make(trained).evaluate(tiny.input_fn(data))
    likelihood = numbers["neg_log_perplexity"] * numbers["num_eval_tokens"]
    assert total == pytest.approx(likelihood, rel=1e-5)


def test_evaluation_sums_over_batches(trained: Path) -> None:
    """Three batches, the last filled up with padding, give the numbers of one batch."""
    data = tiny.ids(20, seed=5)
    padded = {name: np.pad(rows, [[0, 12], [0, 0]]) for name, rows in data.items()}
    apart = tiny.make(trained).evaluate(tiny.input_fn(padded), steps=100)
    together = tiny.make(trained, batch_size=20).evaluate(tiny.input_fn(data, 20), steps=1)
    assert apart == pytest.approx(together, rel=1e-5)
    assert together["num_eval_tokens"] == np.count_nonzero(data["targets"])
    share = together["num_eval_tokens"] / data["targets"].size
    assert together["loss"] == pytest.approx(together["cross_ent_loss"] * share, rel=1e-6)
    assert -together["neg_log_perplexity"] == pytest.approx(together["cross_ent_loss"], rel=1e-5)


def test_cross_entropy_does_not_depend_on_the_length_of_targets(trained: Path) -> None:
    data = tiny.ids(8, seed=5)
    longer = {**data, "targets": np.pad(data["targets"], [[0, 0], [0, tiny.LENGTH]])}
    short = tiny.make(trained).evaluate(tiny.input_fn(data))
    lengths = {"inputs": tiny.LENGTH, "targets": 2 * tiny.LENGTH}
    long = tiny.make(trained, sequence_length=lengths).evaluate(tiny.input_fn(longer))
    # T5's own objective, which divides by all positions, is half of it.
    assert long.pop("loss") == pytest.approx(short.pop("loss") / 2, rel=1e-5)
    assert long == pytest.approx(short, rel=1e-5)


@pytest.mark.parametrize("layout", ["dense_1x4", "dense_2x1", "one_device"])
def test_a_dense_model_has_the_same_numbers_on_meshes_with_axes_of_one(
    tmp_path: Path, layout: str, trained: Path
) -> None:
    estimator = tiny.make(tmp_path, layout=layout)
    estimator.train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    for mine, its in zip(tiny.curves(tmp_path), tiny.curves(trained)):
        for name in ("loss", "cross_ent_loss"):
            assert mine[name] == pytest.approx(its[name], rel=1e-5)
    data = tiny.ids(8, seed=5)
    alone = tiny.make(trained).evaluate(tiny.input_fn(data))
    assert estimator.evaluate(tiny.input_fn(data)) == pytest.approx(alone, rel=1e-4)
    scores, expected = (
        [
            float(row["scores"])
            for row in tiny.make(folder, layout=each, score_in_predict_mode=True).predict(
                tiny.input_fn(data)
            )
        ]
        for folder, each in ((tmp_path, layout), (trained, "one_device"))
    )
    assert scores == pytest.approx(expected, rel=1e-4)


def test_a_module_that_asks_for_reference_variables_changes_nothing(
    tmp_path: Path, trained: Path
) -> None:
    """A benchmark or a user's module may do so that was written for TensorFlow 1."""
    tf.disable_v2_behavior()
    assert not tf.resource_variables_enabled()
    tiny.make(tmp_path).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    assert tf.resource_variables_enabled()
    assert_same_bits(tiny.weights(tmp_path), tiny.weights(trained))


def test_evaluation_of_nothing(trained: Path) -> None:
    nothing = {name: 0 * rows for name, rows in tiny.ids(8).items()}
    with pytest.raises(ValueError) as error:
        tiny.make(trained).evaluate(tiny.input_fn(nothing))
    assert str(error.value) == ("no target to evaluate: the data is empty, or all of it is padding")


def test_exported_model_predicts(trained: Path, tmp_path: Path) -> None:
    """As many rows as are asked for, with the white space that `hmoe predict` leaves out."""
    texts = ["ab", "xyz", "q", "wo", "rld", "ij", "k", "hello"]
    folder = tiny.export(tiny.make(trained), tmp_path)
    more = ["\u3000wo \t", " \x85", "", *texts, *texts]
    exported, many, none = tiny.answers_of_export(folder, texts, more, [])
    rows = {"inputs": tiny.rows_of_texts(texts)}
    answers = list(tiny.make(trained).predict(tiny.input_fn(rows)))
    assert exported == [tiny.text(row["outputs"]) for row in answers]
    assert many == [exported[3], "", "", *exported, *exported]
    assert none == []


def test_exported_model_scores(trained: Path, tmp_path: Path) -> None:
    texts = {"inputs": list("abcdefgh"), "targets": ["", *"ijklmn", "op"]}
    rows = {name: tiny.rows_of_texts(lines) for name, lines in texts.items()}
    estimator = tiny.make(trained, score_in_predict_mode=True)
    expected = [float(row["scores"]) for row in estimator.predict(tiny.input_fn(rows))]
    folder = estimator.export_saved_model(str(tmp_path))
    with tf.Graph().as_default(), tf.Session() as session:
        signature = tf.saved_model.load(session, ["serve"], folder).signature_def["serving_default"]
        assert {name: info.tensor_shape.dim[0].size for name, info in signature.inputs.items()} == {
            "inputs": -1,
            "targets": -1,
        }
        feed = {signature.inputs[name].name: lines + lines[:3] for name, lines in texts.items()}
        found = session.run(signature.outputs["scores"].name, feed)
    assert found == pytest.approx(expected + expected[:3], rel=1e-5)


def test_exports_of_one_second_have_folders_of_their_own(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_model.time, "time", lambda: 1_700_000_000.5)
    for _ in range(2):
        tiny.make(trained).export_saved_model(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1700000000", "1700000001"]

    def full(*unused: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(saved_model, "_write", full)
    with pytest.raises(OSError, match="no space left"):
        tiny.make(trained).export_saved_model(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.fixture
def _ctrl_c_interrupts() -> Iterator[None]:
    """Lets Ctrl-C interrupt, also where a shell began the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_interrupts")
def test_interrupt_saves_and_prints_how_to_resume(tmp_path: Path) -> None:
    lines: list = []

    class Interrupt(tf.train.SessionRunHook):
        def after_run(self, run_context, run_values):
            if not any("Stopping" in line for line in lines):
                signal.raise_signal(signal.SIGINT)

    estimator = tiny.make(tmp_path, lines=lines)
    with pytest.raises(KeyboardInterrupt):
        estimator.train(tiny.input_fn(tiny.ids(80)), max_steps=9, hooks=[Interrupt()])
    path = tf.train.latest_checkpoint(str(tmp_path))
    assert lines[-1] == (
        f"Stopped; the last checkpoint is {path}. To resume, run the same command again"
    )
    assert "Stopping after this step and saving; press Ctrl-C again to stop at once" in lines
    assert tiny.weights(tmp_path)["global_step"] == 1
