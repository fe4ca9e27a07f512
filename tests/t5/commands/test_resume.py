"""What a start of training changes, and what it says, in a folder that has a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.t5 import server, tiny
from tests.t5.commands.test_commands import PARAMETERS

pytestmark = pytest.mark.slow

RUN = ("train", "--gin_file=runs/tiny.gin", *[f"--gin_param={each}" for each in PARAMETERS])


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a run but for its log."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {str(path.relative_to(folder)): path for path in paths}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if name != "log.txt" and ".lock" not in name
    }


@pytest.fixture(scope="module")
def trained(hmoe: server.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps."""
    folder = tmp_path_factory.mktemp("run")
    result = hmoe(*RUN, f"--model_dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


OTHER_RUN = (
    "hmoe: error: {folder}/model.ckpt-4 was trained with another configuration, and what comes out "
    "would not be that run's own:\n{changes}\nLeave these out to resume it (hmoe train "
    "--model_dir={folder}), name another --model_dir for a run of its own, or go on in spite of "
    "them with --force\n"
)


@pytest.mark.parametrize(
    ("parameters", "changes"),
    [
        (
            ("num_inner_experts = 8",),
            "  num_inner_experts: 2 -> 8 (model: the model will differ; weights of other shapes are "
            "refused whatever is forced)",
        ),
        (
            ("utils.run.optimizer = @optimize.AdamWeightDecayOptimizer",),
            "  utils.run.optimizer: @AdafactorOptimizer -> @AdamWeightDecayOptimizer (optimizer: the "
            "updates will differ)",
        ),
        (
            ("MIXTURE_NAME = 'cldr_names'", "batch_size = 16", "hmoe.Session.seed = 7"),
            "  batch_size: 8 -> 16 (batch size: batches will differ, and seen data is skipped in "
            "batches of the new size)\n"
            "  MIXTURE_NAME: 'cldr_formats' -> 'cldr_names' (data: the model will learn other "
            "examples)\n"
            "  Session.seed: not set -> 7 (seed: dropout and other random numbers will differ)",
        ),
    ],
)
def test_another_run_needs_force_and_changes_nothing(
    hmoe: server.Server, trained: Path, parameters: tuple[str, ...], changes: str
) -> None:
    before = contents(trained)
    flags = [f"--gin_param={each}" for each in (*parameters, "train_steps = 9")]
    result = hmoe(*RUN, *flags, f"--model_dir={trained}")
    assert (result.returncode, result.stderr) == (
        2,
        OTHER_RUN.format(folder=trained, changes=changes),
    )
    assert contents(trained) == before


def test_another_architecture_is_refused_even_if_forced_and_changes_nothing(
    hmoe: server.Server, trained: Path
) -> None:
    before = contents(trained)
    flags = ("--gin_param=num_inner_experts = 8", "--gin_param=train_steps = 9", "--force")
    result = hmoe(*RUN, *flags, f"--model_dir={trained}")
    assert result.returncode == 2
    assert result.stderr.startswith(
        f"hmoe: error: checkpoint {trained}/model.ckpt-4 does not match the model: 16 variables "
    )
    assert "  num_inner_experts: 2 -> 8 (model: " in result.stdout
    assert contents(trained) == before


def test_nothing_to_train_changes_nothing(hmoe: server.Server, trained: Path) -> None:
    before = contents(trained)
    result = hmoe(*RUN, "--gin_param=train_steps = 2", f"--model_dir={trained}")
    assert result.returncode == 0, result.stderr
    assert (
        f"{trained}/model.ckpt-4 is at step 4, and training is to stop at step 2" in result.stdout
    )
    assert contents(trained) == before


def test_what_a_run_is_taken_up_with_is_said_and_kept(
    hmoe: server.Server, trained: Path, tmp_path: Path
) -> None:
    """More steps, another layout and a forced learning rate; each is the run's own afterwards."""
    copied(trained, tmp_path)
    model = f"--model_dir={tmp_path}"
    plain = ("train", model, "--evaluate=false")
    longer = hmoe(
        *plain,
        "--train_steps=5",
        "--gin_param=utils.run.mesh_shape = 'cols:1'",
        "--gin_param=utils.run.layout_rules = 'batch:cols'",
    )
    assert longer.returncode == 0, longer.stderr
    assert (
        f"Changed since {tmp_path}/model.ckpt-4 was trained:\n  train_steps: 4 -> 5 (steps: a "
        "schedule that decays follows the new number from here on)\n  utils.run.layout_rules: '' -> "
        "'batch:cols' (mesh and layout: sums are added in another order, so numbers will differ in "
        "their last digits; and by more where the mesh makes other groups of tokens, of which the "
        "layer warns)\n"
    ) in longer.stdout
    forced = hmoe(
        *plain,
        "--train_steps=6",
        "--gin_param=learning_rate = 0.5",
        "--gin_param=utils.run.skip_seen_data = False",
        "--force",
    )
    assert forced.returncode == 0, forced.stderr
    assert "Warning: the data begins anew, since utils.run.skip_seen_data is not set. " in (
        forced.stdout
    )
    assert "  learning_rate: 0.01 -> 0.5 (learning rate: " in forced.stdout
    again = hmoe(*plain)
    assert again.returncode == 0, again.stderr
    assert "Changed since" not in again.stdout
    assert "is at step 6, and training is to stop at step 6: nothing to train" in again.stdout
    config = (tmp_path / "config.gin").read_text(encoding="utf-8")
    for line in ("train_steps = 6", "learning_rate = 0.5", "run.layout_rules = 'batch:cols'"):
        assert f"\n{line}\n" in config
    assert [line["step"] for line in tiny.curves(tmp_path)] == [2, 4, 6]


def copied(folder: Path, target: Path) -> Path:
    for name, content in contents(folder).items():
        (target / name).write_bytes(content)
    return target


def test_a_forced_resume_that_fails_leaves_the_run_as_it_was(
    hmoe: server.Server, trained: Path, tmp_path: Path
) -> None:
    """Its first step succeeds, and its second step meets the weights that the first one made."""
    folder = copied(trained, tmp_path)
    before = contents(folder)
    failed = hmoe(
        "train", f"--model_dir={folder}", "--train_steps=8", "--force",
        "--gin_param=learning_rate = 1e30",
    )  # fmt: skip
    assert failed.returncode == 1
    assert " at step 6, " in failed.stderr
    assert (
        f"the last good checkpoint is {folder}/model.ckpt-4, from which the next start resumes"
        in failed.stderr
    )
    after = contents(folder)
    curves = {name for name in after if name.startswith("events.") or name == "metrics.jsonl"}
    assert {name: after[name] for name in after.keys() - curves} == {
        name: before[name] for name in before.keys() - curves
    }
    resumed = hmoe("train", f"--model_dir={folder}", "--train_steps=6", "--evaluate=false")
    assert resumed.returncode == 0, resumed.stderr
    assert "learning_rate" not in resumed.stdout
    assert "\nlearning_rate = 0.01\n" in (folder / "config.gin").read_text(encoding="utf-8")


def test_beginning_anew_takes_the_saved_configuration_and_waits_for_a_step(
    hmoe: server.Server, trained: Path, tmp_path: Path
) -> None:
    folder = copied(trained, tmp_path)
    before = contents(folder)
    anew = ("train", f"--model_dir={folder}", "--overwrite", "--evaluate=false")
    failed = hmoe(*anew, "--gin_param=warmup_steps = 0")
    assert failed.returncode == 1
    assert failed.stderr.startswith("hmoe: error: the learning rate is nan at step 1, ")
    assert contents(folder) == before
    begun = hmoe(*anew)
    assert begun.returncode == 0, begun.stderr
    assert "default job" not in begun.stdout
    assert f"Beginning the run in {folder} anew with its saved configuration\n" in begun.stdout
    (where,) = folder.glob("overwritten-*")
    assert (where / "model.ckpt-4.index").read_bytes() == before["model.ckpt-4.index"]
    assert (folder / "config.gin").read_bytes() == before["config.gin"]


def test_a_model_without_its_configuration(
    hmoe: server.Server, trained: Path, tmp_path: Path
) -> None:
    """It is not trained as the default job; T5's part of it serves, and is compared."""
    folder = copied(trained, tmp_path)
    used = (folder / "operative_config.gin").read_bytes()
    for name in ("config.gin", "run.json", "operative_config.gin"):
        (folder / name).unlink()
    none = hmoe("train", f"--model_dir={folder}")
    assert (none.returncode, none.stdout, none.stderr) == (
        2,
        "",
        f"hmoe: error: model_dir '{folder}' has no config.gin or operative_config.gin, which "
        "describe the model; name its gin files with --gin_file\n",
    )
    (folder / "operative_config.gin").write_bytes(used)
    resumed = hmoe(*RUN, "--train_steps=6", f"--model_dir={folder}")
    assert resumed.returncode == 0, resumed.stderr
    _, _, said = resumed.stdout.partition(f"Changed since {folder}/model.ckpt-4 was trained:\n")
    assert [line for line in said.splitlines() if line.startswith("  ")] == [
        "  train_steps: 4 -> 6 (steps: a schedule that decays follows the new number from here on)"
    ]


def test_a_first_run_that_fails_is_no_run(hmoe: server.Server, tmp_path: Path) -> None:
    """Its first step has a learning rate that is not a number."""
    failed = hmoe(*RUN, "--gin_param=warmup_steps = 0", f"--model_dir={tmp_path}")
    assert failed.returncode == 1
    assert failed.stderr.startswith("hmoe: error: the learning rate is nan at step 1, ")
    left = {name.split(".")[0] for name in contents(tmp_path)}
    assert left <= {"events"}, left
    taken_up = hmoe("predict", f"--model_dir={tmp_path}", "x")
    assert "holds no checkpoint" in taken_up.stderr


@pytest.mark.parametrize("command", ["train", "predict"])
def test_torn_files_are_named(
    hmoe: server.Server, trained: Path, tmp_path: Path, command: str
) -> None:
    copied(trained, tmp_path)
    words = [command, f"--model_dir={tmp_path}", *(["x"] if command == "predict" else [])]
    flags = (tmp_path / "run.json").read_bytes()
    (tmp_path / "run.json").write_bytes(flags[:9])
    result = hmoe(*words)
    assert result.returncode == 2
    assert f"hmoe: error: {tmp_path}/run.json is damaged (" in result.stderr
    (tmp_path / "run.json").write_bytes(flags)
    config = (tmp_path / "config.gin").read_bytes()
    (tmp_path / "config.gin").write_bytes(config[:1000])
    result = hmoe(*words)
    assert result.returncode == 0, result.stderr
    said = result.stderr if command == "predict" else result.stdout
    assert "): the copy of it in run.json is used instead\n" in said
    assert f"\n{tmp_path}/config.gin is damaged (" in said
    (tmp_path / "run.json").unlink()
    result = hmoe(*words)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"hmoe: error: {tmp_path}/config.gin is damaged (")
    assert result.stderr.endswith(
        "); it describes the model: name its gin files with --gin_file, or restore it from a copy; "
        f"or delete it, for {tmp_path}/operative_config.gin to take its place\n"
    )
    (tmp_path / "config.gin").unlink()
    result = hmoe(*words, *(["--evaluate=false"] if command == "train" else []))
    assert result.returncode == 0, result.stderr
    assert json.loads(flags)["config"][-1].startswith("# The end of the configuration")


def test_a_resume_on_a_file_goes_on_with_the_next_examples(
    hmoe: server.Server, tmp_path: Path
) -> None:
    """The file is shuffled and repeated: eight steps are more than one epoch."""
    pairs = "".join(f"say {i:02d}\tsaid {i:02d}\n" for i in range(60))
    (tmp_path / "pairs.tsv").write_text(pairs, encoding="utf-8")
    constant = "--gin_param=utils.run.learning_rate_schedule = [%learning_rate]"
    run = ("train", f"--data={tmp_path}/pairs.tsv", *RUN[2:], constant, "--evaluate=false")
    for folder, steps in (("whole", 8), ("parts", 3), ("parts", 8)):
        result = hmoe(*run, f"--train_steps={steps}", f"--model_dir={tmp_path}/{folder}")
        assert result.returncode == 0, result.stderr
    whole, parts = (tiny.weights(tmp_path / folder) for folder in ("whole", "parts"))
    assert set(whole) == set(parts)
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, err_msg=name)
