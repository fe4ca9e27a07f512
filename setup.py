"""Package metadata of hmoe: what it needs, the `hmoe` command, and the gin files in the wheel."""

from __future__ import annotations

import os
import re

from setuptools import find_packages, setup

ROOT = os.path.dirname(os.path.abspath(__file__))


def read(*parts: str) -> str:
    """Returns the text of the file below the repository's root at `parts`."""
    with open(os.path.join(ROOT, *parts), encoding="utf-8") as file:
        return file.read()


def version() -> str:
    """Returns the version that `hmoe/version.py` states, without importing the package."""
    found = re.search(r'^__version__ = "([^"]+)"$', read("hmoe", "version.py"), re.MULTILINE)
    if not found:
        raise ValueError('hmoe/version.py must have a line such as __version__ = "1.2.3"')
    return found.group(1)


def gin_packages() -> dict[str, str]:
    """Maps a package name to each folder below gin/: {"hmoe.gin.runs": "gin/runs", ...}.

    The gin files stand at the top of the repository, where users look for them, and are installed
    as data of `hmoe.gin`, where `hmoe.startup.gin_files.folder()` finds them.
    """
    packages = {}
    for folder, subfolders, _ in os.walk(os.path.join(ROOT, "gin")):
        subfolders[:] = [name for name in subfolders if name.isidentifier() and name[0] != "_"]
        relative = os.path.relpath(folder, ROOT)
        packages["hmoe." + relative.replace(os.sep, ".")] = relative.replace(os.sep, "/")
    return packages


# The two lines of TensorFlow that are tested. What lies between them is left out: it has neither
# TPUEstimator nor any other reason to be preferred to 2.21.
TWO_LINES = ">=2.15.{patch},<2.22,!=2.16.*,!=2.17.*,!=2.18.*,!=2.19.*,!=2.20.*"

# What TensorFlow 2.15 needs beside it to import. It is the last TensorFlow with TPUEstimator.
TPU_LINE: list[str] = [
    "tensorflow==2.15.1",
    "tensorflow-text==2.15.0",
    "protobuf>=3.20.3,<5",
    "sentencepiece<0.2.1",
    "tensorflow-metadata<1.16",
    "transformers<4.40",
    "pyarrow<25",  # later ones want NumPy 2
]

# A resolver takes today's TensorFlow, unless the extra `tpu` narrows it to the TPU line.
REQUIREMENTS: list[str] = [
    "t5==0.9.4",
    "mesh-tensorflow==0.1.21",
    "gin-config==0.5.0",
    "setuptools<81",  # mesh-tensorflow imports pkg_resources, which left with setuptools 81
    "tensorflow" + TWO_LINES.format(patch=1),
    "tensorflow-text" + TWO_LINES.format(patch=0),
    # tensorflow-metadata on Python 3.10 keeps protobuf below what sentencepiece 0.2.3 needs.
    'sentencepiece<0.2.3; python_version == "3.10"',
    # Imported by hmoe itself; t5 brings them along, in versions that suit it.
    "absl-py",
    "babel",
    "etils[epath]",
    "numpy",
    "sacrebleu",
    "seqio-nightly",
    "tfds-nightly",
    # A lock on a run's folder that a dead process does not hold; completion for shells.
    "filelock",
    "shtab",
    # Tables in a terminal, and the pictures of `--plot`.
    "rich",
    "matplotlib",
    # Traces of routing: one columnar file each.
    "pyarrow",
    # What the experts learned: statistics, and the page that shows them.
    "scipy",
    "jinja2",
    "altair",
    "vl-convert-python",
    # Asks TensorFlow's servers of a run's other processes whether they are there; it comes with
    # TensorFlow anyway.
    "grpcio",
]

setup(
    name="hmoe",
    version=version(),
    description="Hierarchical mixture of experts on named dimensions, for T5 on Mesh TensorFlow",
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["hmoe", "hmoe.*"]) + sorted(gin_packages()),
    package_dir=gin_packages(),
    package_data={"": ["*.gin"], "hmoe": ["py.typed"], "hmoe.report": ["page.html", "page.css"]},
    install_requires=REQUIREMENTS,
    extras_require={"tpu": TPU_LINE},
    entry_points={"console_scripts": ["hmoe = hmoe.cli.main:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
