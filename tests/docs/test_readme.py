"""The README and the pages behind it: the snippet runs, gin parses, links and paths lead somewhere."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import gin
import pytest

from hmoe.t5 import configurables
from tests.docs import pages
from tests.gin import configs

README = pages.ROOT / "README.md"
PAGES = pytest.mark.parametrize("page", pages.PAGES, ids=pages.NAMES)


def test_python_of_the_readme_runs_as_it_stands(tmp_path):
    """In a fresh process, from the first import to the printed numbers."""
    [code] = pages.blocks(README, "python")
    script = tmp_path / "snippet.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    shape, mean, loss = re.fullmatch(r"(\(.*\)) (\S+) (\S+)\n", done.stdout).groups()
    assert shape == "(4, 8, 16, 64)"
    assert math.isfinite(float(mean))
    # An even load gives 0.01 at each level; routers that are not trained are nearly even.
    assert 0.018 < float(loss) < 0.04
    # Warnings would say that the mesh forces other groups than one device would have.
    assert "groups have" not in done.stderr


def test_gin_of_the_readme_makes_the_layer():
    [block] = pages.blocks(README, "gin")
    with configs.parsed(["models/hierarchical_tiny.gin"], [block]):
        moe = configurables.MoELayer().moe
    assert [(level.name, level.num_experts, level.router.k) for level in moe.levels] == [
        ("outer", 8, 2),
        ("inner", 8, 2),
    ]
    assert moe.experts.hidden_size == 2048


def test_gin_of_the_balance_page_parses():
    [block] = pages.blocks(pages.ROOT / "docs" / "balance.md", "gin")
    with configs.parsed(["models/hierarchical_tiny.gin"], [block]):
        levels = configurables.MoELayer().moe.levels
    assert [level.router.bias_update_rate for level in levels] == [0.003, 0.003]
    assert [level.balance_loss_coef for level in levels] == [0.0, 0.0]


@PAGES
def test_bindings_in_the_text_parse(page):
    """Classes and arguments exist; each stands alone, so that one cannot hide another's fault."""
    for binding in pages.bindings(page):
        gin.clear_config()
        try:
            gin.parse_config(binding)
        finally:
            gin.clear_config()


@PAGES
def test_links_lead_to_files_and_headings(page):
    assert pages.broken_links(page) == []


@PAGES
def test_paths_in_the_text_exist(page):
    assert pages.missing_paths(page) == []


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = (link.partition("#")[0] for link in pages.links(page))
        waiting += [(page.parent / target).resolve() for target in targets if target]
    assert set(pages.PAGES) - reached == set()


def test_faults_of_a_page_are_found(tmp_path):
    """What the tests above rely on."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One `page`, and more\n"
        "[here](#one-page-and-more) [nowhere](#two) [file](page.md) [none](none.md#one)\n"
        "[web](https://example.org) `hmoe/layer/moe.py` `hmoe/layer/none.py` `make test`\n"
        "`outer/hmoe.Level.num_experts = 8` `hmoe.Level` `k = 2`\n"
        "```gin\n[no](link.md) `hmoe/none.py`\n```\n",
        encoding="utf-8",
    )
    assert pages.broken_links(page) == ["#two", "none.md#one"]
    assert pages.missing_paths(page) == ["hmoe/layer/none.py"]
    assert list(pages.bindings(page)) == ["outer/hmoe.Level.num_experts = 8"]
    assert pages.blocks(page, "gin") == ["[no](link.md) `hmoe/none.py`\n"]
