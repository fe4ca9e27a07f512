"""The engine of one process, whose slices are on the devices of several TensorFlow servers."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

from hmoe.compat.stack import tf
from hmoe.t5.sessions.estimator import SessionEstimator
from tests.t5 import task, tiny

pytestmark = pytest.mark.slow

STEPS = 7
# Wide, so that the weights are far larger than what a step has to send.
BINDINGS = ("d_ff_wide = 4096",)


class CountBytes(tf.train.SessionRunHook):
    """Notes how many bytes have gone over the sockets of a task after each step."""

    def __init__(self, of: task.Task):
        self._of = of
        self.after_steps: list[int] = []

    def after_run(self, *arguments: object) -> None:
        del arguments
        self.after_steps.append(self._of.bytes_so_far())


def make(folder: Path, addresses: list[str] | None = None) -> SessionEstimator:
    """An estimator whose weights are split over two devices, of this process or of two servers."""
    estimator = tiny.make(folder, layout="dense_2x1", bindings=BINDINGS)
    if addresses is None:
        return estimator
    return SessionEstimator(
        dataclasses.replace(
            estimator.settings,
            mesh_devices=["/job:worker/task:0/cpu:0", "/job:worker/task:1/cpu:0"],
        ),
        dataclasses.replace(estimator.session, master=f"grpc://{addresses[0]}"),
    )


@dataclasses.dataclass
class Trained:
    """What a training on two servers left, which have ended since.

    Attributes:
      folder: of the model.
      addresses: where the servers were.
      sent: bytes between the servers in each step but the first.
    """

    folder: Path
    addresses: list[str]
    sent: list[int]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("servers")
    with task.cluster(2, folder) as (addresses, tasks):
        count = CountBytes(tasks[1])
        make(folder / "model", addresses).train(
            tiny.input_fn(tiny.ids(STEPS * tiny.BATCH)), max_steps=STEPS, hooks=[count]
        )
    return Trained(folder / "model", addresses, list(np.diff(count.after_steps)))


def test_trains_as_one_process_does(trained: Trained, tmp_path: Path) -> None:
    make(tmp_path).train(tiny.input_fn(tiny.ids(STEPS * tiny.BATCH)), max_steps=STEPS)
    ours, theirs = tiny.curves(trained.folder), tiny.curves(tmp_path)
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    np.testing.assert_allclose(
        [line["loss"] for line in ours], [line["loss"] for line in theirs], rtol=1e-5
    )
    weights = tiny.weights(tmp_path)
    for name, value in tiny.weights(trained.folder).items():
        np.testing.assert_allclose(value, weights[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_step_sends_no_weight(trained: Trained) -> None:
    """The half of the weights that is on the second server would go to the first and back."""
    weights = tiny.weights(trained.folder)
    largest = max(value.nbytes for name, value in weights.items() if "slot" not in name)
    assert largest == 16 * 4096 * 4
    # Of the six matrices of this size, each server has a half. The last step also saves them,
    # which collects the weights.
    assert 0 < max(trained.sent[:-1]) < 6 * largest / 2


def test_exports_when_the_servers_are_gone(trained: Trained, tmp_path: Path) -> None:
    texts = ["ab", "xyz", "q", "wo", "rld", "ij", "k", "hello"]
    before = time.monotonic()
    folder = tiny.export(make(trained.folder, trained.addresses), tmp_path)
    assert time.monotonic() - before < 120
    (exported,) = tiny.answers_of_export(folder, texts)
    rows = {"inputs": tiny.rows_of_texts(texts)}
    answers = list(make(trained.folder).predict(tiny.input_fn(rows)))
    assert exported == [tiny.text(row["outputs"]) for row in answers]
