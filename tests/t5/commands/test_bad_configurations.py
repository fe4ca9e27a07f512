"""Bad inputs that only TensorFlow, T5 or a user's own module can tell: one message each."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.t5.commands import t5_run
from tests.t5 import server

GPU = ["gpu:0", "", "", ""]


def binding(devices: list[str]) -> str:
    return f"utils.run.mesh_devices = {devices!r}"


@pytest.mark.parametrize("devices", [[], [""], ["cpu:0", ""], ["/device:CPU:0"], ["/cpu:*"]])
def test_devices_of_this_machine(devices: list[str]) -> None:
    t5_run.check_devices(devices)


@pytest.mark.parametrize(
    ("device", "found"), [("gpu:0", "no GPU"), ("cpu:7", "/physical_device:CPU:0")]
)
def test_devices_that_this_machine_has_not(device: str, found: str) -> None:
    with pytest.raises(ValueError) as error:
        t5_run.check_devices(["", device])
    assert str(error.value) == (
        f"utils.run.mesh_devices has '{device}', but this machine has {found}; use '' for any "
        "device, or one of CPU:0"
    )


MODULES = {
    "raises_at_once": "raise KeyError('absent')\n",
    "lacks_a_module": "\nimport no_such_module_at_all\n",
    "has_a_constant": "import gin\ngin.constant('MY_BATCH', 8)\n",
}

ERRORS = {
    "import_in_gin": (
        ["--gin_param=import raises_at_once"],
        "--gin_param 'import raises_at_once': import 'raises_at_once' fails: KeyError: 'absent' "
        "({here}/raises_at_once.py:1)",
    ),
    "module_import": (
        ["--module_import=lacks_a_module"],
        "--module_import 'lacks_a_module' fails: ModuleNotFoundError: No module named "
        "'no_such_module_at_all' ({here}/lacks_a_module.py:2)",
    ),
    "undefined_beside_a_module": (
        ["--module_import=has_a_constant", "--gin_param=batch_size = %MY_BATHC"],
        "--gin_param 'batch_size = %MY_BATHC': batch_size is %MY_BATHC, but nothing defines the "
        "macro MY_BATHC; define it in a gin file or with --gin_param 'MY_BATHC = ...'",
    ),
    "gpu": (
        [f"--gin_param={binding(GPU)}"],
        "utils.run.mesh_devices has 'gpu:0', but this machine has no GPU; use '' for any device, "
        "or one of CPU:0",
    ),
    "two_outputs": (
        ["--gin_param=hmoe.FeedForwardExperts.output_names = ['a', 'b']"],
        "hmoe.MoELayer: the experts have 2 outputs (hmoe.FeedForwardExperts.output_names = ['a', "
        "'b']), but the layer adds one to each token; leave output_names out. Attention with "
        "experts (hmoe.ExpertsSelfAttention) names the outputs that it needs by itself",
    ),
    "moved_argument": (
        ["--gin_param=hmoe.MoELayer.levels = [@outer/hmoe.Level(), @inner/hmoe.Level()]"],
        "hmoe.MoELayer.levels: levels is an argument of hmoe.HierarchicalMoE; in gin, write "
        "hmoe.HierarchicalMoE.levels = ... in its place, and hmoe.MoELayer.moe = "
        "@hmoe.HierarchicalMoE()",
    ),
    "unknown_name": (
        ["--gin_param=Unitransformer.d_modle = 8"],
        "--gin_param 'Unitransformer.d_modle = 8': Configurable 'Unitransformer' doesn't have a "
        "parameter named 'd_modle'.\n",
    ),
}


@pytest.fixture(scope="module")
def in_folder(tmp_path_factory: pytest.TempPathFactory):
    """Runs commands that find the modules above."""
    folder = tmp_path_factory.mktemp("modules")
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "ROOT", f"{server.ROOT}:{folder}")
        running = server.Server(tmp_path_factory.mktemp("server"))
    yield running, folder
    running.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ERRORS)
def test_errors_after_tensorflow_is_loaded(name: str, in_folder, tmp_path: Path) -> None:
    hmoe, folder = in_folder
    flags, message = ERRORS[name]
    ended = hmoe("train", "--gin_file=runs/tiny.gin", f"--model_dir={tmp_path}/m", *flags)
    wanted = message.replace("{here}", str(folder))
    if name == "unknown_name":
        # Gin's message goes on with all arguments of T5's class.
        ended.stderr = ended.stderr[: len(f"hmoe: error: {wanted}")] + "\n"
    assert (ended.returncode, ended.stderr) == (2, f"hmoe: error: {wanted}\n")
    assert not list(tmp_path.glob("m/model.ckpt*"))


@pytest.mark.slow
def test_warnings_before_and_after_tensorflow_is_loaded(in_folder, tmp_path: Path) -> None:
    hmoe, _ = in_folder
    (tmp_path / "mine.gin").write_text(
        "\n".join(
            [
                "include 'runs/tiny.gin'",
                "train_steps = 1",
                "group_sise = 8",
                "outer/hmoe.TopKRouter.k = 9",
                "inner/hmoe.TopKRouter.retries = 50",
            ]
        ),
        encoding="utf-8",
    )
    flags = ("train", f"--gin_file={tmp_path}/mine.gin", f"--model_dir={tmp_path}/m")
    ended = hmoe(*flags)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == (
        f"Warning: {tmp_path}/mine.gin:3: nothing reads the macro group_sise; did you mean "
        "'group_size'?\n"
    )
    assert [line for line in ended.stdout.splitlines() if line.startswith("Warning")] == [
        "Warning: level 'outer': k is 9, but it has 4 experts; every token chooses all of them",
        "Warning: level 'inner': retries is 50, but beside the 2 that a token chooses the level "
        "has only 2",
    ]


@pytest.mark.slow
def test_gin_files_beside_data_change_the_default_run(in_folder, tmp_path: Path) -> None:
    hmoe, _ = in_folder
    lines = ("train_steps = 1", "batch_size = 8", "d_model = 64", "d_ff = 96", "num_blocks = 1")
    (tmp_path / "small.gin").write_text("\n".join(lines), encoding="utf-8")
    data = "".join(f"in {n}\tout {n}\n" for n in range(20))
    (tmp_path / "pairs.csv").write_text(data, encoding="utf-8")
    ended = hmoe(
        "train",
        f"--data={tmp_path}/pairs.csv",
        "--data_format=pairs",
        f"--gin_file={tmp_path}/small.gin",
        "--gin_file=layouts/one_device.gin",
        f"--model_dir={tmp_path}/m",
        "--noevaluate",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "step 1 of 1" in ended.stdout
