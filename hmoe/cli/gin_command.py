"""`hmoe gin`: lists, shows and copies the gin files of this package."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil

from hmoe.startup import gin_files
from hmoe.startup.command_line import command
from hmoe.startup.suggestions import similar

# Characters of a sentence beyond which only its part before a colon is listed.
_LONGEST = 120
_INCLUDE = re.compile(r"""^include\s+['"]([^'"]+)['"]\s*$""")


def run(flags: argparse.Namespace) -> None:
    """Runs what the flags ask for.

    Raises:
      ValueError: there is no such file or folder, or the file to write exists.
      OSError: the file cannot be written.
    """
    if flags.action == "list":
        print("\n".join(listing(flags.part)))
    elif flags.action == "show":
        text = whole(find(flags.name)) if flags.whole else read(find(flags.name))
        print(text, end="")
    else:
        print(f"Copied {find(flags.name)} to {copy(find(flags.name), flags.target)}")


def known_files() -> list[str]:
    """Returns the names of all files, such as `runs/default.gin`, by folder."""
    top = gin_files.folder()
    found = [
        os.path.relpath(os.path.join(where, name), top)
        for where, _, names in os.walk(top)
        for name in names
        if name.endswith(".gin")
    ]
    return sorted(found, key=lambda path: (os.path.dirname(path), path))


def listing(part: str | None) -> list[str]:
    """Returns lines with the name of each file, and the first sentence of its comment.

    Args:
      part: one of the folders, such as "runs"; None for all.

    Raises:
      ValueError: there is no such folder.
    """
    names = known_files()
    folders = list(dict.fromkeys(map(os.path.dirname, names)))
    if part is not None:
        asked = os.path.normpath(part)
        names = [n for n in names if n.startswith(f"{asked}{os.sep}")]
        if not names:
            raise ValueError(f"there is no folder {part!r} of gin files{similar(asked, folders)}")
    width = max(map(len, names))
    lines: list[str] = []
    for number, name in enumerate(names):
        if number and os.path.dirname(name) != os.path.dirname(names[number - 1]):
            lines.append("")
        lines.append(f"{name:<{width}}  {first_sentence(read(name))}")
    return lines


def first_sentence(text: str) -> str:
    """Returns the first sentence of the comment at the head of a gin file, on one line."""
    words = []
    for line in text.splitlines():
        comment = line.removeprefix("#").strip()
        if comment.startswith("-*-"):
            continue
        if not line.startswith("#") or not comment:
            break
        words.append(comment)
        if comment.endswith(":"):  # an example follows
            break
    sentence = re.split(r"(?<=\.)(?=\s|$)", " ".join(words))[0].rstrip(":.")
    return sentence if len(sentence) <= _LONGEST else sentence.split(": ")[0]


def find(name: str) -> str:
    """Returns the full name of a file that may be named without folder or extension.

    Raises:
      ValueError: there is no such file, or there are several.
    """
    names = known_files()
    asked = os.path.normpath(name).removesuffix(".gin") + ".gin"
    matches = [each for each in names if asked in (each, os.path.basename(each))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f"there are several gin files {name!r}: {', '.join(matches)}")
    meant = similar(asked, names) or similar(asked, [os.path.basename(each) for each in names])
    raise ValueError(
        f"there is no gin file {name!r} in this package{meant} ({command('gin', 'list')})"
    )


def read(name: str) -> str:
    """Returns the text of a file of this package."""
    with open(os.path.join(gin_files.folder(), name), encoding="utf-8") as file:
        return file.read()


def whole(name: str) -> str:
    """Returns the text of a file with those that it includes in place of the includes."""
    lines = []
    for line in read(name).splitlines():
        include = _INCLUDE.match(line)
        if include and include[1] in known_files():
            lines += [f"# ----- from {include[1]}", whole(include[1]).rstrip(), "# -----"]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def copy(name: str, target: str | None) -> str:
    """Copies a file of this package, and returns the path of the copy.

    Args:
      name: the file's full name.
      target: the new file, or a folder; None for the current one.

    Raises:
      ValueError: there is a file already.
      OSError: the file cannot be written.
    """
    path = target or os.curdir
    if os.path.isdir(path) or path.endswith(os.sep):
        path = os.path.normpath(os.path.join(path, os.path.basename(name)))
    try:
        with open(path, "xb") as file, open(os.path.join(gin_files.folder(), name), "rb") as source:
            shutil.copyfileobj(source, file)
    except FileExistsError as error:
        line = command("gin", "copy", name, "FILE")
        raise ValueError(f"{path!r} exists; name another file: {line}") from error
    except FileNotFoundError as error:
        folder = os.path.dirname(path)
        raise ValueError(
            f"{path!r} cannot be written: the folder {folder!r} does not exist; make it first "
            f"(mkdir -p {shlex.quote(folder)}), or name another file"
        ) from error
    return path
