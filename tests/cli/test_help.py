"""Help pages, their examples, suggestions for wrong commands, and completion."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from hmoe.cli import flags, main
from hmoe.version import __version__
from tests.docs import pages

# Words of an example that a shell would not hand to the command.
_REDIRECTIONS = {"<", ">", "|"}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields a parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


def examples(text: str) -> list[str]:
    return re.findall(r"^  (hmoe .+)$", text.partition("\nexamples:\n")[2], re.MULTILINE)


def words(line: str) -> list[str]:
    """Returns what a shell hands to the command of a line."""
    found = shlex.split(line)[1:]
    ends = [number for number, word in enumerate(found) if word in _REDIRECTIONS]
    return found[: ends[0]] if ends else found


def check_parses(line: str) -> None:
    given = words(line)
    if given[-1:] == ["--help"] or given[:1] in (["--help"], ["-h"], ["-V"], ["--version"]):
        return
    parsed = main.build_parser().parse_args(given)
    if parsed.command in ("train", "predict", "score", "plan", "trace"):
        flags.check(parsed)
    if parsed.command == "launch" and parsed.words:  # otherwise it only names the command
        check_parses(shlex.join(["hmoe", *parsed.words[parsed.words[0] == "--" :]]))


def test_every_page_has_two_examples_that_parse() -> None:
    count = 0
    for parser in parsers(main.build_parser()):
        found = examples(parser.format_help())
        assert len(found) == 2, parser.prog
        for line in found:
            check_parses(line)
        count += 1
    assert count > 10


def commands_of_pages() -> list[str]:
    """Returns the complete commands in the text and the blocks of the pages, and in gin files."""
    texts = [pages.text(page) for page in pages.PAGES]
    texts += [path.read_text(encoding="utf-8") for path in (pages.ROOT / "gin").rglob("*.gin")]
    found = []
    for text in texts:
        whole = re.sub(r"\\\n#?\s*", "", text)
        inline = re.findall(r"`(?:\.venv/bin/)?(hmoe (?![A-Z])[^`\n]+)`", whole)
        blocks = re.findall(r"^(?:#  )?\s*(?:\.venv/bin/)?(hmoe [a-z-].+)$", whole, re.MULTILINE)
        found += [line for line in [*inline, *blocks] if line.split()[1] in COMMANDS]
    lines = {line.removesuffix(" ...").replace("...", "x") for line in found}
    return sorted(line for line in lines if "[" not in line)


COMMANDS = {
    *("train", "eval", "predict", "score", "export", "split", "merge", "plan", "launch", "gin"),
    *("trace", "ablate", "report", "help"),
}


def test_commands_of_the_pages_parse() -> None:
    found = [line for line in commands_of_pages() if " " in line]
    assert len(found) > 15
    for line in found:
        if line.startswith(("hmoe split", "hmoe merge")) and "--output_dir" not in line:
            continue  # names the command, and is no example of it
        if re.match(r"hmoe gin (list|show|copy)?$", line) or re.match(r"hmoe [a-z]+ and", line):
            continue
        check_parses(line)


def test_tpu_flags_stand_under_their_own_heading() -> None:
    text = main.build_parser().parse_args(["train"]).parser.format_help()
    heading = text.index("\nTPU (TensorFlow 2.15 only):\n")
    for flag in ("--tpu ", "--tpu_job_name", "--tpu_zone", "--gcp_project"):
        assert text.index(f"  {flag}") > heading
    assert "\nyour own data, without code:\n" in text


def test_flags_of_a_plan_stand_under_their_own_headings() -> None:
    text = main.build_parser().parse_args(["plan"]).parser.format_help()
    order = ("what is shown", "a trained model", "your own data, without code", "configuration")
    headings = [text.index(f"\n{heading}:\n") for heading in order]
    assert headings == sorted(headings)
    for flag in ("--platform", "--hardware", "--json", "--explain", "--prove", "--plot"):
        assert headings[0] < text.index(f"  {flag} ") < headings[1]
    for flag in ("--train_steps", "--evaluate", "--overwrite", "--workers", "--tpu"):
        assert f"  {flag}" not in text


def test_flags_of_many_processes_stand_under_their_own_heading() -> None:
    names = ("--workers ", "--worker_index", "--trust_network", "--lost_after", "--start_within")
    for parser in parsers(main.build_parser()):
        text, command = parser.format_help(), parser.prog.removeprefix("hmoe ")
        has_them = command in ("train", "eval", "predict", "score", "trace")
        assert ("\nmany processes:\n" in text) == has_them
        for name in names if has_them else ():
            assert text.index(f"  {name}") > text.index("\nmany processes:\n")


@pytest.mark.parametrize("line", [["-V"], ["--version"]])
def test_version(capsys: pytest.CaptureFixture, line: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(line)
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"hmoe {__version__}\n"


@pytest.mark.parametrize(
    ("line", "usage"),
    [
        (["help"], "usage: hmoe [-h] [-V] COMMAND ...\n"),
        ([], "usage: hmoe [-h] [-V] COMMAND ...\n"),
        (["help", "train"], "usage: hmoe train [FLAG ...]\n"),
        (["help", "gin", "copy"], "usage: hmoe gin copy NAME [FILE]\n"),
        (["help", "plan"], "usage: hmoe plan [FLAG ...]\n"),
        (["help", "launch"], "usage: hmoe launch [FLAG ...] -- COMMAND ...\n"),
        (["predict", "-h"], "usage: hmoe predict [FLAG ...] [TEXT ...]\n"),
    ],
)
def test_help(capsys: pytest.CaptureFixture, line: list[str], usage: str) -> None:
    try:
        status = main.main(line)
    except SystemExit as stop:
        status = stop.code
    assert status == 0
    assert capsys.readouterr().out.startswith(usage)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["trian"], "hmoe: error: unknown command 'trian'; did you mean 'train'?"),
        (["help", "trian"], "hmoe: error: unknown command 'trian'; did you mean 'train'?"),
        (["gin", "lst"], "hmoe gin: error: unknown action 'lst'; did you mean 'list'?"),
        (
            ["completion", "bsh"],
            "hmoe completion: error: unknown shell 'bsh'; did you mean 'bash'?",
        ),
        (
            ["train", "--data=a.csv", "--data_format=csv"],
            "hmoe train: error: --data_format is 'csv'; choose from pairs, text",
        ),
        (
            ["xyz"],
            "hmoe: error: unknown command 'xyz'; choose from train, eval, predict, score, trace, ablate, export, "
            "split, merge, plan, report, launch, gin, completion, help",
        ),
    ],
)
def test_wrong_names(capsys: pytest.CaptureFixture, line: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(line)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[1:] == [message]


TRAIN = "hmoe train: error: unrecognized arguments: "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["gin", "show"], "hmoe gin show: error: the following arguments are required: NAME"),
        (
            ["--model_dir=x"],
            "hmoe: error: unrecognized arguments: --model_dir=x; flags come after the command: "
            "hmoe train --model_dir=x",
        ),
        (
            ["--input_file=a b"],
            "hmoe: error: unrecognized arguments: --input_file=a b; flags come after the command: "
            "hmoe predict '--input_file=a b'",
        ),
        (
            ["--model_dir=x", "train"],
            f"{TRAIN}--model_dir=x; flags come after the command: hmoe train --model_dir=x",
        ),
        (
            ["train", "--gin_file runs/tiny.gin"],
            f"{TRAIN}--gin_file runs/tiny.gin; '--gin_file runs/tiny.gin' is one word, write "
            "--gin_file=runs/tiny.gin",
        ),
        (
            ["train", "runs/tiny.gin"],
            f"{TRAIN}runs/tiny.gin; did you mean '--gin_file=runs/tiny.gin'?",
        ),
        (["train", "my.tsv"], f"{TRAIN}my.tsv; did you mean '--data=my.tsv'?"),
        (["train", "my.txt", "x"], f"{TRAIN}my.txt x; did you mean '--data=my.txt'?"),
        (["eval", "my.txt"], "hmoe eval: error: unrecognized arguments: my.txt"),
        (
            ["train", "--train_steps=ten"],
            "hmoe train: error: --train_steps is 'ten'; it must be an integer of at least 1",
        ),
        (
            ["train", "--force=maybe"],
            "hmoe train: error: --force is 'maybe'; it must be true or false",
        ),
        (["train", "--zzz"], f"{TRAIN}--zzz"),
        (
            ["plan", "--platform=v3"],
            "hmoe plan: error: --platform is 'v3'; choose from cpu, gpu, tpu",
        ),
        (["plan", "--vocabulary=v.model"], "hmoe plan: error: --vocabulary goes with --data"),
        (["plan", "--tpu=mine"], "hmoe plan: error: unrecognized arguments: --tpu=mine"),
    ],
)
def test_wrong_arguments(capsys: pytest.CaptureFixture, line: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(line)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == message


def test_completion_in_bash(capsys: pytest.CaptureFixture) -> None:
    """Subcommands, flags, files of the package, and the user's files and folders."""
    assert main.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    asked = 'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _shtab_hmoe; echo "${COMPREPLY[@]}"\n'
    for typed, expected in (
        ("tr", "train trace"),
        ("trai", "train"),
        ("split --output", "--output_dir"),
        ("gin co", "copy"),
        ("gin show runs/def", "runs/default.gin runs/default_dense.gin runs/default_one_level.gin"),
        ("train --model_dir gi", "gin"),
        ("train --gin_file setup", "setup.py"),
        ("launch --restarts 2 -- tr", "train trace"),
        ("launch --host", "--hosts --host_index"),
        ("plan --pl", "--platform --plot"),
        ("plan --platform t", "tpu"),
        ("plan --hardware setup", "setup.py"),
    ):
        line = f"COMP_WORDS=(hmoe {typed}); {asked}"
        done = subprocess.run(
            ["bash", "-c", script + line], capture_output=True, text=True, cwd=pages.ROOT
        )
        assert done.stdout.split() == expected.split(), (typed, done.stderr)


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_completion_in_other_shells(capsys: pytest.CaptureFixture, shell: str) -> None:
    assert main.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "hmoe" in script
    assert "--gin_file" in script or "gin_file" in script
