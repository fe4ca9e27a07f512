"""The adapter around upstream's `utils.run`."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import gin
import pytest
from mesh_tensorflow.transformer import utils

import hmoe.t5
from hmoe.compat.stack import tf
from hmoe.startup.request import Machine
from hmoe.t5.commands import t5_run
from hmoe.t5.data import training_batches
from hmoe.t5.sessions.training_folder import Beginning
from tests.storage import fake_checkpoints as fake


def run(mode: str, **fields: Any) -> t5_run.T5Run:
    return t5_run.T5Run(mode=mode, model_dir="nowhere", say=print, **fields)


@pytest.fixture(autouse=True)
def _clean():
    gin.clear_config()
    yield
    gin.clear_config()


def test_input_state_cannot_be_saved() -> None:
    gin.parse_config("utils.run.checkpoint_input_pipeline = True")
    with pytest.raises(ValueError) as error:
        run("train").start()
    assert str(error.value) == (
        "utils.run.checkpoint_input_pipeline = True is not supported: it needs a hook that was "
        "removed from TensorFlow with its Estimator, and data from Python generators cannot be "
        "saved; use utils.run.skip_seen_data = True with a seed for the data "
        "(mesh_train_dataset_fn.seed)"
    )


FUNCTIONS = {
    "estimator": "get_estimator",
    "evaluate": "eval_model",
    "infer": "infer_model",
    "score": "score_from_strings",
}


@pytest.mark.parametrize("given", [None, *FUNCTIONS])
def test_only_what_is_given_and_the_estimator_is_replaced_during_the_run(
    monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    seen: dict[str, Any] = {}

    def upstream(**arguments: Any) -> None:
        seen.update(arguments, **{name: getattr(utils, name) for name in FUNCTIONS.values()})

    def mine() -> None: ...

    monkeypatch.setattr(utils, "run", upstream)
    before = {name: getattr(utils, name) for name in FUNCTIONS.values()}
    run("infer", arguments={"train_steps": 7}, **({given: mine} if given else {})).start()
    assert {name: getattr(utils, name) for name in FUNCTIONS.values()} == before
    assert (seen["mode"], seen["model_dir"], seen["train_steps"]) == ("infer", "nowhere", 7)
    assert [seen[name] for name in ("tpu", "tpu_job_name", "tpu_zone", "gcp_project")] == [None] * 4
    for field, name in FUNCTIONS.items():
        if field == given:
            assert seen[name] is mine
        elif field == "estimator":
            assert seen[name] is not before[name]
        else:
            assert seen[name] is before[name]


def test_functions_are_put_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def upstream(**unused: Any) -> None:
        raise KeyError("mode")

    monkeypatch.setattr(utils, "run", upstream)
    before = utils.eval_model
    with pytest.raises(KeyError):
        run("eval", evaluate=print).start()
    assert utils.eval_model is before


def test_training_reads_shards_unless_the_user_has_a_function_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def upstream(**arguments: Any) -> None:
        seen.append(arguments.get("train_model_fn"))

    def mine() -> None: ...

    monkeypatch.setattr(utils, "run", upstream)
    run("train").start()
    run("eval").start()
    run("train", arguments={"train_model_fn": mine}).start()
    gin.external_configurable(mine, name="test_train_function")
    gin.parse_config("utils.run.train_model_fn = @test_train_function")
    run("train").start()
    assert seen[0].func is training_batches.train_model
    assert seen[1:] == [None, mine, None]


def test_nothing_else_in_the_package_calls_the_run_of_upstream() -> None:
    root = Path(hmoe.__file__).parent
    callers = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("utils.run")
    ]
    assert callers == ["t5/commands/t5_run.py"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_as_the_session_says_where_there_is_no_tpu(dtype: str) -> None:
    gin.bind_parameter("utils.get_variable_dtype.master_dtype", "float32")
    gin.bind_parameter("utils.get_variable_dtype.slice_dtype", "bfloat16")
    gin.bind_parameter("utils.get_variable_dtype.activation_dtype", "float16")
    t5_run._use_activations(dtype)
    found = utils.get_variable_dtype()
    assert (found.master_dtype, found.slice_dtype) == (tf.float32, tf.float32)
    assert found.activation_dtype == tf.as_dtype(dtype)


@pytest.mark.parametrize("anew", [True, False])
def test_what_a_session_does_is_done_around_an_estimator_of_tpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, anew: bool
) -> None:
    """The folder is put in order once the model is known, and the run kept at the first step."""
    folder = tmp_path / "m"
    fake.save(folder, 4)
    (folder / "model.ckpt-6_temp").mkdir()
    before = fake.names(folder)
    kept: list[str] = []
    given: dict[str, Any] = {}

    class Estimator:
        def train(self, **arguments: Any) -> None:
            given.update(arguments)

    def make_estimator(*arguments: Any, **named: Any) -> Estimator:
        assert fake.names(folder) == before
        return Estimator()

    def upstream(**arguments: Any) -> None:
        utils.get_estimator().train(input_fn=None, max_steps=3)  # type: ignore[call-arg]

    monkeypatch.setattr(t5_run, "make_estimator", make_estimator)
    monkeypatch.setattr(utils, "run", upstream)
    t5_run.T5Run(
        mode="train",
        model_dir=str(folder),
        say=print,
        machine=Machine(tpu="mine"),
        beginning=Beginning(anew, lambda: kept.append("kept")),
    ).start()
    assert not (folder / "model.ckpt-6_temp").exists()
    assert fake.whole_steps(folder) == ([] if anew else [4])
    assert len(list(folder.glob("overwritten-*"))) == anew
    assert kept == []
    (hook,) = given["hooks"]
    for _ in range(2):
        hook.after_run(None, None)
    assert kept == ["kept"]
