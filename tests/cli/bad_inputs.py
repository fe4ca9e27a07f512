"""The table of bad inputs, and the files that its commands find.

`bad_inputs.txt` has a command and the whole message that it ends with. In commands, T is
`train --gin_file=runs/tiny.gin --model_dir=new`, and `P binding` is T with that `--gin_param`. In
messages, {here} is the folder of the command, {shipped} that of hmoe's gin files, {t5} that of
T5's, and {param} what a message about the `--gin_param` of the command begins with. {byte} is 0xe9, which is
no UTF-8.
"""

from __future__ import annotations

import gzip
import hashlib
import pathlib
import shlex
from typing import NamedTuple

from hmoe.startup import gin_files
from tests.storage.fake_checkpoints import TABLE_END

TABLE = pathlib.Path(__file__).with_name("bad_inputs.txt")

T = ["train", "--gin_file=runs/tiny.gin", "--model_dir=new"]

# What lies beside a command, by name; None is a folder.
FILES: dict[str, bytes | None] = {
    "folder": None,
    "folder/file.txt": b"one\n",
    "folder.gin": None,
    "file": b"no folder\n",
    "in.txt": b"one\ntwo\n",
    "answers.unfinished": b"one\n",
    "targets.txt": b"1\n2\n",
    "scored.targets": b"1\n2\n",
    "empty.txt": b"",
    "blank.txt": b"\n \n",
    "latin.txt": b"one\ncaf\xe9\n",
    "pairs.tsv": b"a\tb\nc\td\n",
    "copy.tsv": b"a\tb\nc\td\n",
    "one_column.tsv": b"a\tb\nc\n",
    "three_columns.tsv": b"a\tb\nc\td\te\n",
    "no_target.tsv": b"a\tb\nc\t \n",
    "no_input.tsv": b"a\tb\n\td\n",
    "blank_line.tsv": b"a\tb\n\nc\td\n",
    "latin.tsv": b"a\tb\ncaf\xe9\td\n",
    "zero.tsv": b"a\tb\nc\0\td\n",
    "utf16.tsv": "a\tb\nc\td\n".encode("utf-16-le"),
    "empty.tsv": b"",
    "all_bad.tsv": b"a\nb\n",
    "one_input.tsv": b"a\tb\na\tc\n",
    "data.csv": b"a,b\n",
    "data": b"a\tb\nc\td\n",
    "plain.tsv.gz": b"a\tb\n",
    "cut.tsv.gz": gzip.compress(b"a\tb\nc\td\n" * 100, mtime=0)[:20],
    "one_block.txt": b"running text\n",
    "zero.txt": b"running\0 text\n\nmore\n",
    "latin.gin": b"# a comment\ntrain_steps = 3\n# caf\xe9\n",
    "bom.gin": b"\xef\xbb\xbftrain_steps = 3\n",
    "self.gin": b"include 'other.gin'\n",
    "other.gin": b"# back\n\ninclude 'self.gin'\n",
    "alone.gin": b"include 'alone.gin'\n",
    "syntax.gin": b"train_steps = 3\nbatch_size 8\n",
    "open.gin": b"train_steps = 3\nutils.run.mesh_devices = ['',\n",
    "quote.gin": b"train_steps = 3\nutils.run.mesh_shape = 'rows:2\n",
    "missing.gin": b"train_steps = 3\ninclude 'layouts/cpu_2x3.gin'\n",
    "within.gin": b"include 'missing.gin'\n",
    "imports.gin": b"import no_such_module\n",
    "imports_broken.gin": b"# mine\nimport broken\n",
    "eval.gin": b"include 'runs/tiny.gin'\nutils.run.mode = 'eval'\n",
    "value.gin": b"include 'runs/tiny.gin'\n\nbatch_size = '8'\n",
    "macro.gin": b"include 'runs/tiny.gin'\ntrain_stepz = 3\n",
    "undefined.gin": b"include 'runs/tiny.gin'\nbatch_size = %batchsize\n",
    "scope.gin": b"include 'runs/tiny.gin'\noutter/hmoe.Level.num_experts = 4\n",
    "gate.gin": b"include 'runs/tiny.gin'\nhmoe.Gate.jitter = 0.1\n",
    "block.gin": b"include 'runs/tiny.gin'\ninner/hmoe.Level:\n  group_size = 0\n",
    "cycle.gin": b"include 'runs/tiny.gin'\nbatch_size = %other\nother = %batch_size\n",
    "broken.py": b"x = (\n",
    "mine.py": b"x = 1\n",
    # A trained model, as far as commands look before TensorFlow is loaded.
    "m": None,
    "m/checkpoint": b'model_checkpoint_path: "model.ckpt-3"\n',
    "m/model.ckpt-3.index": b"index" + TABLE_END,
    "m/model.ckpt-3.data-00000-of-00001": b"data",
    "m/config.gin": b"include 'runs/tiny.gin'\n",
    # One whose training imported a module that is gone.
    "saved_run": None,
    "saved_run/model.ckpt-3.index": b"index" + TABLE_END,
    "saved_run/model.ckpt-3.data-00000-of-00001": b"data",
    "saved_run/config.gin": b"include 'runs/tiny.gin'\n",
    "saved_run/run.json": b'{"module_import": ["no_such_module"]}\n',
    # A run whose metrics are there, and nothing else.
    "only_metrics": None,
    "only_metrics/metrics.jsonl": b'{"step": 2, "loss": 1.5}\n',
    # One whose first line of metrics was torn.
    "torn_metrics": None,
    "torn_metrics/metrics.jsonl": b'{"step": 2, "lo',
    "only_metrics_pictures": b"no folder\n",
    "no_model": None,
    "no_config": None,
    "no_config/checkpoint": b'model_checkpoint_path: "model.ckpt-3"\n',
    "no_config/model.ckpt-3.index": b"index" + TABLE_END,
    "no_config/model.ckpt-3.data-00000-of-00001": b"data",
}


class Row(NamedTuple):
    """One bad input.

    Attributes:
      name: a short name.
      words: the words of the command.
      message: the whole message.
    """

    name: str
    words: list[str]
    message: str


def rows(here: pathlib.Path) -> list[Row]:
    """Returns the table, with the paths of this machine.

    Args:
      here: the folder that the commands run in.
    """
    blocks = [
        block
        for block in TABLE.read_text(encoding="utf-8").split("\n\n")
        if not block.startswith("#")
    ]
    return [_row(block.strip("\n").split("\n"), here) for block in blocks]


def _row(lines: list[str], here: pathlib.Path) -> Row:
    name, _, command = lines[0].partition(": ")
    message = "\n".join(line.removeprefix("  ") for line in lines[1:])
    first, _, binding = command.partition(" ")
    words = [*T, f"--gin_param={binding}"] if first == "P" else shlex.split(command)
    if words[0] == "T":
        words = [*T, *words[1:]]
    folders = gin_files.search_folders([])
    places = {"here": here, "shipped": folders[1], "t5": folders[0]}
    for place, path in places.items():
        message = message.replace(f"{{{place}}}", str(path))
    message = message.replace("{param}", f"--gin_param {binding!r}")
    return Row(name, [word.replace("{byte}", "\udce9") for word in words], message)


def make(here: pathlib.Path) -> None:
    """Makes the files that the commands find."""
    for name, content in FILES.items():
        if content is None:
            (here / name).mkdir()
        else:
            (here / name).write_bytes(content)


def tree(here: pathlib.Path) -> dict[str, str]:
    """Returns a digest of each file under a folder, and "" for each folder."""
    return {
        str(path.relative_to(here)): (
            "" if path.is_dir() else hashlib.blake2b(path.read_bytes()).hexdigest()
        )
        for path in sorted(here.rglob("*"))
        if path.is_dir() or path.is_file()
    }
