"""The command line: what it answers without TensorFlow, and its errors."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hmoe.cli import launch, main
from hmoe.launcher.processes import free_ports
from hmoe.startup import errors, request_checks
from hmoe.startup.request import AblateFlags, Machine, PlanFlags, Request, TraceFlags
from hmoe.startup.workers import Workers
from tests import patience
from tests.storage import fake_checkpoints

USAGE = "usage: hmoe train [FLAG ...]\n"


def request(*arguments: str) -> Request:
    return Request.from_flags(main.build_parser().parse_args(list(arguments)))


def exit_text(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main.main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_help_and_errors_import_no_tensorflow() -> None:
    code = (
        "import sys\nfrom hmoe.cli import main as cli\n"
        "for line in (['--help'], ['train', '--help'], ['--version'], ['train', '--bogus'], [],\n"
        "             ['help', 'gin'], ['gin', 'list'], ['completion', 'bash']):\n"
        "    try: cli.main(line)\n"
        "    except SystemExit: pass\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert 'numpy' not in sys.modules\n"
    )
    begun = time.time()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert time.time() - begun < 5
    assert "train a model" in result.stdout


MISSING = {
    "train --data=none.tsv": "--data 'none.tsv' does not exist",
    "train --data=. ": "--data '.' is a folder; give the file in it",
    "train --gin_file=runs/defaul.gin": "gin file 'runs/defaul.gin' not found in ",
    "predict --model_dir=none x": "model_dir 'none' does not exist; train first ",
    "eval --model_dir=.": "model_dir '.' holds no checkpoint; train first ",
    "predict --model_dir=model --input_file=none.txt": "--input_file 'none.txt' does not exist",
    "score --model_dir=model --target_file=none.txt": "--target_file 'none.txt' does not exist",
    "split --model_dir=model --output_dir=model": "--output_dir 'model' exists and is not empty",
}


def test_missing_files_are_found_before_tensorflow_is_imported(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    fake_checkpoints.save(tmp_path / "model", 1)
    code = (
        "import sys\nfrom hmoe.cli import main as cli\n"
        f"for line in {list(MISSING)!r}: assert cli.main(line.split()) == 2\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    said = result.stderr.splitlines()
    assert len(said) == len(MISSING)
    for line, message in zip(said, MISSING.values()):
        assert line.startswith(f"hmoe: error: {message}")
    # Nothing was begun.
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_files_elsewhere_are_left_to_tensorflow() -> None:
    for command in ("predict", "eval", "score"):
        given = request(command, "--model_dir=gs://a/model", "--gin_file=gs://a/b.gin")
        inputs = {"input_file": "gs://a/c", "target_file": "gs://a/d"}
        assert request_checks.check(dataclasses.replace(given, **inputs)) == []
        assert request_checks.check(dataclasses.replace(given, gin_file=(), **inputs)) == []


def test_unknown_flag_with_a_suggestion(capsys: pytest.CaptureFixture) -> None:
    assert exit_text(capsys, "train", "--gin_fil=a.gin") == (
        USAGE + "hmoe train: error: unrecognized arguments: --gin_fil=a.gin; did you mean "
        "'--gin_file'?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--vocabulary=x"], "hmoe train: error: --vocabulary goes with --data\n"),
        (["train", "--skip_bad_lines"], "hmoe train: error: --skip_bad_lines goes with --data\n"),
        (
            ["train", "--skip_all_gin_unknowns=maybe"],
            "hmoe train: error: --skip_all_gin_unknowns is 'maybe'; it must be true or false\n",
        ),
        (
            ["split", "--model_dir=m"],
            "hmoe split: error: the following arguments are required: --output_dir\n",
        ),
        (["train", "--workers=a:1"], "hmoe train: error: --workers goes with --worker_index\n"),
        (["eval", "--worker_index=1"], "hmoe eval: error: --worker_index goes with --workers\n"),
        (["score", "--trust_network"], "hmoe score: error: --trust_network goes with --workers\n"),
        (["train", "--lost_after=2"], "hmoe train: error: --lost_after goes with --workers\n"),
        (
            ["train", "--start_within=soon"],
            "hmoe train: error: --start_within is 'soon'; it must be a number of seconds above 0\n",
        ),
        (
            ["predict", "x", "--input_file=f"],
            "hmoe predict: error: give either a text or --input_file\n",
        ),
        (
            ["predict", "--output_file=f"],
            "hmoe predict: error: --output_file goes with --input_file\n",
        ),
        (
            ["score", "--output_file=f"],
            "hmoe score: error: --output_file goes with --target_file\n",
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_flags_that_do_not_go_together(
    capsys: pytest.CaptureFixture, arguments: list, message: str
) -> None:
    assert exit_text(capsys, *arguments).endswith(f"\n{message}")


def test_t5_flags_are_understood() -> None:
    """As T5's documentation writes them, in absl's spellings."""
    assert request(
        "train",
        "--gin_file=a.gin",
        "--gin_file",
        "b.gin",
        "--gin_param=x = 1",
        "--gin_location_prefix=p,q",
        "--module_import=m",
        "--model_dir=d",
        "--tpu=t",
        "--tpu_zone=z",
        "--gcp_project=g",
        "--t5_tfds_data_dir=e",
        "--additional_task_cache_dirs=c1,c2",
        "--noskip_all_gin_unknowns",
        "--noevaluate",
    ) == Request(
        command="train",
        gin_file=("a.gin", "b.gin"),
        gin_param=("x = 1",),
        gin_location_prefix=("p", "q"),
        module_import=("m",),
        model_dir="d",
        machine=Machine(tpu="t", tpu_zone="z", gcp_project="g"),
        t5_tfds_data_dir="e",
        additional_task_cache_dirs=("c1", "c2"),
        evaluate=False,
    )
    assert request("eval", "--skip_all_gin_unknowns").skip_all_gin_unknowns is True


def test_every_flag_of_a_command_reaches_its_request() -> None:
    lines = {
        "train": [
            "--train_steps=3",
            "--data=d",
            "--vocabulary=v",
            "--skip_bad_lines",
            "--evaluate",
            "--replay=r",
        ],
        "predict": ["some", "words"],
        "score": ["--input_file=i", "--target_file=t", "--output_file=o"],
        "export": ["--export_dir=e"],
        "split": ["--output_dir=n"],
        "eval": ["--replay=r"],
        "trace": ["--examples=3", "--split=s", "--output=o"],
        "ablate": ["--label=kind", "--trace=t", "--examples=3", "--seeds=5", "--output=o"],
        "plan": [
            *("--platform=tpu", "--hardware=h", "--json", "--explain", "--prove", "--plot=p"),
            *("--model_dir=d", "--data=d", "--strict"),
        ],
    }
    changed = {
        command: {
            field.name: getattr(request(command, *line), field.name)
            for field in dataclasses.fields(Request)
            if field.name not in ("command", "model_dir")
            and getattr(request(command, *line), field.name) != field.default
        }
        for command, line in lines.items()
    }
    assert changed == {
        "train": {
            "train_steps": 3,
            "data": "d",
            "vocabulary": "v",
            "skip_bad_lines": True,
            "evaluate": True,
            "replay": "r",
        },
        "eval": {"replay": "r"},
        "predict": {"text": ("some", "words")},
        "score": {"input_file": "i", "target_file": "t", "output_file": "o"},
        "export": {"export_dir": "e"},
        "split": {"output_dir": "n"},
        "trace": {"trace": TraceFlags(examples=3, split="s", output="o")},
        "ablate": {"ablate": AblateFlags(label="kind", trace="t", examples=3, seeds=5, output="o")},
        "plan": {
            "data": "d",
            "strict": True,
            "plan": PlanFlags(
                reads_model_dir=True,
                platform="tpu",
                hardware="h",
                json=True,
                explain=True,
                prove=True,
                plot="p",
            ),
        },
    }


def test_requests_are_frozen_and_have_a_field_for_every_flag() -> None:
    given = request("predict")
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.model_dir = "other"  # type: ignore[misc]
    hash(given)
    kinds = (Request, Machine, Workers, PlanFlags, TraceFlags, AblateFlags)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    for command in ("train", "eval", "predict", "score", "export", "plan", "trace", "ablate"):
        flags = vars(main.build_parser().parse_args([command]))
        # Traces are compared without a request.
        compares = {"compare", "json"} if command == "trace" else set()
        assert set(flags) - names - {"worker_index"} == {"parser"} | compares - names


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["train"], "runs/default"),
        (["train", "--gin_file=a.gin", "--gin_file=x/b.gin"], "runs/b"),
        (["train", "--data=x/pairs.tsv"], "runs/pairs"),
        (["predict"], "runs/default"),
        (["eval", "--gin_file=eval.gin"], "runs/default"),
        (["plan", "--gin_file=a.gin"], "runs/default"),
    ],
)
def test_default_model_dir(arguments: list, folder: str) -> None:
    assert request(*arguments).model_dir == folder


def test_a_plan_reads_only_the_folder_that_a_flag_names() -> None:
    plans = [request("plan", *line).plan for line in ([], ["--model_dir=runs/default"])]
    assert plans == [PlanFlags(), PlanFlags(reads_model_dir=True)]
    assert request("train").plan is None


def test_errors_in_words(capsys: pytest.CaptureFixture) -> None:
    gin_error = ValueError("no\n  In call to configurable 'run' (<function run>)")
    assert launch.describe(gin_error, "log") == "hmoe: error: no"
    unbound = RuntimeError("Required bindings for `f` not provided in config: ['x']")
    assert launch.describe(unbound, "log") == (
        "hmoe: error: Required bindings for `f` not provided in config: ['x']\n"
        "Set them in a gin file or with --gin_param; a layout file (layouts/one_device.gin) sets "
        "the mesh"
    )
    assert launch.describe(KeyError("x"), "a/log.txt").endswith(
        "hmoe: unexpected KeyError; the full traceback is in a/log.txt"
    )


def test_errors_of_the_system_without_their_numbers() -> None:
    assert launch.describe(FileNotFoundError(2, "No such file or directory", "a"), None) == (
        "hmoe: error: a: No such file or directory"
    )
    assert launch.describe(OSError("no room"), None) == "hmoe: error: no room"


@pytest.mark.parametrize(
    ("error", "is_bad_input"),
    [
        (ValueError("x"), True),
        (RuntimeError("Required bindings for `f` not provided"), True),
        (FileNotFoundError(2, "x", "a"), True),
        (IsADirectoryError(21, "x", "a"), True),
        (PermissionError(13, "x", "a"), True),
        (errors.RunFailedError("the loss is nan"), False),
        (errors.ProcessLostError("process 2 was lost"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("x"), False),
        (KeyError("x"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bad_input_is_told_from_failures(error: Exception, is_bad_input: bool) -> None:
    assert errors.is_bad_input(error) is is_bad_input


# Runs the command with a stand-in for TensorFlow and all that needs it.
SCRIPT = """
import os, sys, types
from hmoe.startup import errors
def run(request, console):
    print("to the log", file=sys.stderr)
    ACTION
sys.modules["hmoe.t5"] = types.ModuleType("hmoe.t5")
sys.modules["hmoe.t5.commands"] = package = types.ModuleType("hmoe.t5.commands")
package.commands = sys.modules["hmoe.t5.commands.commands"] = types.ModuleType("commands")
package.commands.run = run
from hmoe.cli.main import main
sys.argv[0] = "hmoe"
sys.exit(main())
"""


def command(action: str, *arguments: str, **settings: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("ACTION", action), *arguments],
        capture_output=True,
        text=True,
        **settings,
    )


TRAIN = ("train", "--gin_file=runs/tiny.gin")


@pytest.mark.parametrize(
    ("action", "status", "said"),
    [
        ("raise ValueError('the gate is odd')", 2, "hmoe: error: the gate is odd\n"),
        ("raise KeyboardInterrupt", 130, "Interrupted.\n"),
        ("os.kill(os.getpid(), 15)\n    import time; time.sleep(9)", 143, "Ended by SIGTERM.\n"),
    ],
    ids=["bad_input", "interrupted", "ended"],
)
def test_a_training_that_never_began_leaves_nothing(
    tmp_path: Path, action: str, status: int, said: str
) -> None:
    ended = command(action, *TRAIN, "--model_dir=runs/deep/m", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (status, said)
    assert ended.stdout == "Loading TensorFlow (log: runs/deep/m/log.txt) ...\n"
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_failed_keeps_its_log(tmp_path: Path) -> None:
    ended = command("raise errors.RunFailedError('nan')", *TRAIN, "--model_dir=m", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (1, "hmoe: error: nan\n")
    log = (tmp_path / "m" / "log.txt").read_text()
    assert "hmoe train --gin_file=runs/tiny.gin --model_dir=m\nto the log\nTraceback" in log
    assert (tmp_path / "m" / "log.txt").stat().st_mode & 0o777 == 0o600


def processes(number: int) -> tuple[str, str]:
    """Returns the flags of a process of a run on 2 x 2."""
    ports = free_ports(4)
    addresses = ",".join(f"localhost:{port}" for port in ports)
    return f"--workers={addresses}", f"--worker_index={number}"


# A thread that is not Python's to end, as those of TensorFlow's server.
STAYS = (
    "import threading, time; "
    f"threading.Thread(target=time.sleep, args=[{2 * patience.HANG}]).start(); "
)


@pytest.mark.parametrize(
    ("action", "status", "said"),
    [
        ("pass", 0, ""),
        ("raise errors.ProcessLostError('process 2 ended')", 3, "hmoe: error: process 2 ended\n"),
        ("raise errors.RunFailedError('nan')", 1, "hmoe: error: nan\n"),
    ],
)
def test_a_process_of_a_run_leaves_whatever_still_runs(
    tmp_path: Path, action: str, status: int, said: str
) -> None:
    flags = processes(1)
    words = [STAYS + action, *TRAIN, "--model_dir=m", *flags]
    ended = command(*words, cwd=tmp_path, timeout=patience.HANG)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", said)
    assert os.listdir(tmp_path / "m") == ["process_1.log"]
    log = (tmp_path / "m" / "process_1.log").read_text().splitlines()
    port = flags[0].split(",")[1].removeprefix("localhost:")
    assert log[1:4] == [
        f"hmoe: Process 1 of 4: TensorFlow's server listens on port {port} of all interfaces of "
        "this machine, without authentication, and runs any graph that it is sent "
        "(docs/security.md)",
        "hmoe: Loading TensorFlow (log: m/process_1.log) ...",
        "to the log",
    ]


def test_the_first_process_of_a_run_says_that_a_server_listens(tmp_path: Path) -> None:
    ended = command("pass", *TRAIN, "--model_dir=m", *processes(0), cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("Process 0 of 4: TensorFlow's server listens on port ")
    assert lines[1:] == ["Loading TensorFlow (log: m/log.txt) ..."]


def test_what_was_written_before_an_error_stays(tmp_path: Path) -> None:
    action = "open('m/config.gin', 'w').close(); raise ValueError('x')"
    assert command(action, *TRAIN, "--model_dir=m", cwd=tmp_path).returncode == 2
    assert sorted(each.name for each in (tmp_path / "m").iterdir()) == ["config.gin", "log.txt"]


@pytest.mark.parametrize(
    ("action", "status", "left"),
    [
        ("pass", 0, 0),
        ("raise ValueError('x')", 2, 0),
        ("raise errors.RunFailedError('x')", 1, 1),
        ("raise KeyError('x')", 1, 1),
    ],
)
def test_a_temporary_log_stays_only_for_who_needs_it(
    tmp_path: Path, action: str, status: int, left: int
) -> None:
    flags = ("export", "--model_dir=gs://bucket/m")
    ended = command(action, *flags, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert ended.returncode == status
    logs = list(tmp_path.iterdir())
    assert len(logs) == left
    if logs:
        assert logs[0].stat().st_mode & 0o777 == 0o600
        assert str(logs[0]) in ended.stderr


def test_errors_are_printed_when_the_log_is_full(tmp_path: Path) -> None:
    action = "os.dup2(os.open('/dev/full', os.O_WRONLY), 2); raise OSError(28, 'No space', 'm/x')"
    ended = command(action, *TRAIN, "--model_dir=m", cwd=tmp_path)
    assert ended.returncode == 1
    assert re.fullmatch(
        r"hmoe: error: no space left to write m/x \(\d.*B free on the disk of m\); make room, then "
        r"run the same command again\. Checkpoints that were saved before are intact\n",
        ended.stderr,
    )


def test_lines_that_cannot_be_printed_stop_nothing(tmp_path: Path) -> None:
    action = "console.say('a'); console.say('b'); open('done', 'w').close()"
    script = SCRIPT.replace("ACTION", action)
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", script, *TRAIN, "--model_dir=m"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "done").exists()
    log = (tmp_path / "m" / "log.txt").read_text()
    assert log.count("Nothing more is printed: No space left on device") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("line", "status"), [("help", 0), ("predict --model_dir=none", 2)])
def test_closed_streams(tmp_path: Path, closed: str, line: str, status: int) -> None:
    program = f"{sys.executable} -m hmoe.cli.main {line} {closed}"
    ended = subprocess.run(["sh", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == status
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    program = f"{sys.executable} -m hmoe.cli.main gin show --whole default; echo $? > status"
    ended = subprocess.run(
        ["sh", "-c", f"({program}) | true"], capture_output=True, text=True, cwd=tmp_path
    )
    assert ended.stderr == ""
    assert (tmp_path / "status").read_text() in ("141\n", "0\n")


def test_output_is_utf8_whatever_the_locale_says(tmp_path: Path) -> None:
    variables = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("ACTION", "console.say(chr(228))"), *TRAIN],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, **variables, "PYTHONIOENCODING": "ascii"},
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert "ä\n".encode() in ended.stdout


def test_the_default_job_is_announced(tmp_path: Path) -> None:
    ended = command("pass", "train", "--model_dir=x", cwd=tmp_path)
    assert ended.stdout == (
        "Beginning the default job (runs/default.gin) in x, a new folder\n"
        "Loading TensorFlow (log: x/log.txt) ...\n"
    )


@pytest.mark.parametrize(("command", "intact"), [("train", True), ("predict", False)])
def test_a_full_disk_is_told_from_full_standard_output(command: str, intact: bool) -> None:
    request = Request(command=command, model_dir="m")
    full = OSError(errno.ENOSPC, "No space left on device", "m/x")
    said = launch.describe(full, None, request)
    assert said.startswith("hmoe: error: no space left to write m/x (")
    assert said.endswith("Checkpoints that were saved before are intact") is intact
    answers = errors.RunFailedError("cannot write to standard output: No space left on device")
    answers.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert launch.describe(answers, None, request) == f"hmoe: error: {answers}"
