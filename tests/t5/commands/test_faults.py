"""Through the command: odd names of folders, damaged checkpoints, a full disk, beginning anew."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage import fake_checkpoints as fake
from tests.t5 import server

pytestmark = pytest.mark.slow

RUN = "--gin_file=runs/tiny.gin"
ODD = "-a[1] *?\N{SNOWMAN}"


def succeeded(result: subprocess.CompletedProcess) -> list[str]:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


@pytest.fixture(scope="module")
def trained(hmoe: server.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, with checkpoints of steps 2 and 4, trained by a relative path."""
    folder = tmp_path_factory.mktemp("run") / ODD
    succeeded(hmoe("train", RUN, f"--model_dir={os.path.relpath(folder)}"))
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "model")
    return tmp_path / "model"


def test_all_commands_take_folders_with_odd_names(
    hmoe: server.Server, trained: Path, tmp_path: Path
) -> None:
    model = os.path.relpath(trained)
    answer = succeeded(hmoe("predict", f"--model_dir={model}", "en month 1"))
    succeeded(hmoe("eval", f"--model_dir={trained}/"))
    for name in ("in", "out"):
        (tmp_path / name).write_text("a\n", encoding="utf-8")
    scores = hmoe(
        "score", f"--model_dir={model}", f"--input_file={tmp_path}/in",
        f"--target_file={tmp_path}/out",
    )  # fmt: skip
    assert len(succeeded(scores)) == 1
    succeeded(hmoe("export", f"--model_dir={model}", f"--export_dir={tmp_path}/[export]"))
    assert len(list((tmp_path / "[export]").glob("*/saved_model.pb"))) == 1
    source = model
    for command in ("split", "merge"):
        target = os.path.relpath(tmp_path / f"{command} [{ODD}]")
        lines = succeeded(hmoe(command, f"--model_dir={source}", f"--output_dir={target}"))
        recommended = f"hmoe predict --model_dir={shlex.quote(target)}"
        assert lines[-1].endswith(f"To answer: {recommended}")
        assert (Path(target) / "checkpoint").read_text() == (
            'model_checkpoint_path: "model.ckpt-4"\nall_model_checkpoint_paths: "model.ckpt-4"\n'
        )
        arguments = shlex.split(recommended)[1:]
        assert succeeded(hmoe(*arguments, "en month 1")) == answer
        source = target


def test_training_goes_on_from_the_newest_whole_checkpoint(
    hmoe: server.Server, copy: Path, tmp_path: Path
) -> None:
    """Nothing that the file `checkpoint` lists is loaded or removed."""
    other = tmp_path / "other"
    fake.save(other, 1)
    outside = fake.contents(other)
    (copy / "checkpoint").write_text(
        'model_checkpoint_path: "../other/model.ckpt-1"\n'
        'all_model_checkpoint_paths: "../other/model.ckpt-1"\n'
    )
    index = copy / "model.ckpt-4.index"
    index.write_bytes(index.read_bytes()[:-1])
    (copy / "model.ckpt-6_temp").mkdir()
    problem = "model.ckpt-4.index has 3,014 bytes, but had 3,015 when it was saved"
    before = fake.contents(copy)
    predicted = hmoe("predict", f"--model_dir={copy}", "en month 1")
    assert len(succeeded(predicted)) == 1
    assert (
        f"Warning: model.ckpt-4: {problem}. Damaged checkpoints are left alone; "
        f"{copy}/model.ckpt-2 is used instead" in predicted.stderr.splitlines()
    )
    after = fake.contents(copy)
    assert {**after, "log.txt": b""} == {**before, "log.txt": b""}

    more = "--gin_param=utils.run.keep_checkpoint_max = 1"
    lines = succeeded(hmoe("train", RUN, f"--model_dir={copy}", more))
    damaged = f"model.ckpt-4 is damaged ({problem}): moved to {copy}/damaged"
    assert lines.index(f"Resuming from {copy}/model.ckpt-2") < lines.index(damaged)
    assert not (copy / "model.ckpt-6_temp").exists()
    assert (copy / "damaged" / "model.ckpt-4.index").read_bytes() == before["model.ckpt-4.index"]
    weights = "model.ckpt-4.data-00001-of-00002"
    assert (copy / weights).read_bytes() == before[weights], "as the run that went on"
    assert sorted({path.name.split(".")[1] for path in copy.glob("model.*")}) == ["ckpt-4"]
    assert fake.contents(other) == outside


def test_predicting_with_damaged_files(hmoe: server.Server, copy: Path) -> None:
    """Each damage comes on top of the ones before; small files change nothing."""
    state = copy / "checkpoint"
    data = "model.ckpt-4.data-00001-of-00002"

    def said() -> list[str]:
        predicted = hmoe("predict", f"--model_dir={copy}", "en month 1")
        assert len(succeeded(predicted)) == 1
        return [line for line in predicted.stderr.splitlines() if "Warning" in line]

    state.unlink()
    (copy / "metrics.jsonl").write_text("torn")
    assert said() == []
    state.write_text("something else")
    content = bytearray((copy / data).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / data).write_bytes(content)
    (warning,) = said()
    assert warning.startswith(f"Warning: model.ckpt-4: {data} is damaged: its checksum is not ")
    (copy / "model.ckpt-2.manifest.json").write_text("{")
    none = hmoe("predict", f"--model_dir={copy}", "en month 1")
    assert (none.returncode, none.stdout) == (2, "")
    assert none.stderr.startswith(f"hmoe: error: no checkpoint in model_dir '{copy}' is whole (")


def test_what_names_no_checkpoint_is_an_error(hmoe: server.Server, copy: Path) -> None:
    before = fake.contents(copy)
    step = hmoe(
        "predict", f"--model_dir={copy}", "--gin_param=utils.run.eval_checkpoint_step = 77", "x"
    )
    assert (step.returncode, step.stdout) == (2, "")
    assert step.stderr.splitlines()[-1] == (
        f"hmoe: error: model_dir '{copy}' has no checkpoint of step 77; it has steps 2, 4. "
        "Choose one that it has (utils.run.eval_checkpoint_step), or -1 for the newest"
    )
    keep = hmoe(
        "train", f"--model_dir={copy}", "--train_steps=8",
        "--gin_param=utils.run.keep_checkpoint_max = -1",
    )  # fmt: skip
    assert keep.returncode == 2
    assert keep.stderr == (
        "hmoe: error: --gin_param 'utils.run.keep_checkpoint_max = -1': "
        "utils.run.keep_checkpoint_max is -1; it must be an integer of at least 0\n"
    )
    after = fake.contents(copy)
    assert {name: text for name, text in after.items() if name.startswith("model.")} == {
        name: text for name, text in before.items() if name.startswith("model.")
    }
    assert after["metrics.jsonl"] == before["metrics.jsonl"]


def test_beginning_anew_moves_the_old_run_aside(hmoe: server.Server, copy: Path) -> None:
    (copy / "model.ckpt-4.index").unlink()
    before = fake.contents(copy)
    arguments = ("train", RUN, f"--model_dir={copy}", "--train_steps=2")
    lines = succeeded(hmoe(*arguments, "--overwrite"))
    (where,) = copy.glob("overwritten-*")
    assert f"Beginning anew; the files of the run before are in {where}" in lines
    assert not any(line.startswith("Resuming") for line in lines)
    moved = fake.contents(where)
    for name in before:
        if name.startswith("model.") or name == "metrics.jsonl":
            assert moved[name] == before[name]
    assert (copy / "model.ckpt-2.index").exists()
    assert (copy / "metrics.jsonl").read_text().count("\n") == 1


# In a name space of its own, any user may mount a small disk.
ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size={free}k,mode=755 tmpfs {disk}
cp -r {model} {disk}/m
dd if=/dev/zero of={disk}/fill bs=1k count=100000 2>/dev/null || true
df --output=avail {disk}
hmoe() {{ {python} -m hmoe.cli.main train --model_dir={disk}/m --train_steps=6; }}
hmoe || echo "status $?"
rm {disk}/fill
hmoe || echo "status $?"
ls {disk}/m
mount -o remount,size=100m {disk}
hmoe
cat {disk}/m/metrics.jsonl | wc -l
"""


def test_a_full_disk(copy: Path, tmp_path: Path) -> None:
    """Full for the log too; then with room for all but a checkpoint; then with room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    probe = subprocess.run([*unshare, f"mount -t tmpfs tmpfs {disk}"], capture_output=True)
    if probe.returncode:
        pytest.skip("no name space to mount a disk in")
    shutil.rmtree(copy / "damaged", ignore_errors=True)
    used = sum(-(-path.stat().st_size // 4096) * 4 for path in copy.iterdir())
    script = ON_A_SMALL_DISK.format(free=used + 3000, disk=disk, model=copy, python=sys.executable)
    result = subprocess.run(
        [*unshare, script], capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": server.ROOT},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    full, no_room = [line for line in result.stderr.splitlines() if line.startswith("hmoe: ")]
    assert full.startswith(f"hmoe: error: no space left to write {disk}/m")
    assert f" (0 bytes free on the disk of {disk}/m); make room, then run the same " in full
    assert no_room.startswith(f"hmoe: error: no space left to write {disk}/m/model.ckpt-6 (")
    lines = result.stdout.splitlines()
    assert lines.count("status 1") == 2
    assert [line for line in lines if line.startswith("model.") and "index" in line] == [
        "model.ckpt-2.index",
        "model.ckpt-4.index",
    ]
    assert f"Saved {disk}/m/model.ckpt-6" in lines
    assert lines[-1] == "3"
