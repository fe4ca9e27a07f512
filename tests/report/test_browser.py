"""The page in a real browser: drawn, readable at any width, and alone with itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from hmoe.report import make
from tests.report import browser as browser_lib
from tests.report import made_runs

pytestmark = pytest.mark.skipif(
    browser_lib.executable() is None,
    reason="there is no chromium, chromium-browser or google-chrome",
)

WINDOWS = [(400, "light"), (400, "dark"), (1400, "light"), (1400, "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browser_lib.started() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one run and a page of two, whose texts are hostile."""
    folder = tmp_path_factory.mktemp("pages")
    first = made_runs.make_hostile(folder / "a<b>&'\"")
    second = made_runs.make(folder / "second", made_runs.lines(5, high=7.0))
    one, two = folder / "one.html", folder / "two.html"
    make.report(str(first), print, path=str(one))
    make.report(str(first), print, against=str(second), path=str(two))
    return {"one": one, "two": two}


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_page_is_whole(
    browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    with browser_lib.opened(browser, pages[name], width, scheme) as opened:
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        pictures = page.evaluate(
            "[...document.images].map(i => [i.complete, i.naturalWidth, i.alt])"
        )
        assert len(pictures) >= 5
        assert all(complete and wide > 0 and alt for complete, wide, alt in pictures)
        lines = page.evaluate("document.querySelectorAll('.vega svg .mark-line path').length")
        assert lines >= 2
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    assert opened.problems == []


@pytest.mark.parametrize("name", ["one", "two"])
def test_page_can_be_read_aloud(browser: Browser, pages: dict[str, Path], name: str) -> None:
    with browser_lib.opened(browser, pages[name], 1400, "light") as opened:
        page = opened.page
        levels = page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
        )
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))
        assert page.evaluate(
            "[...document.querySelectorAll('table')].every(t => t.caption?.innerText)"
        )
        assert page.evaluate("[...document.querySelectorAll('th')].every(t => t.scope)")
        assert page.evaluate(
            "[...document.querySelectorAll('.scroll')].every(t => t.tabIndex == 0)"
        )
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        links = page.evaluate("[...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))")
        assert len(links) >= 4
        assert set(links) <= set(ids)


def test_two_runs_stand_beside_each_other_where_there_is_room(
    browser: Browser, pages: dict[str, Path]
) -> None:
    lefts = {}
    for width in (400, 1400):
        with browser_lib.opened(browser, pages["two"], width, "light") as opened:
            lefts[width] = opened.page.evaluate(
                "[...document.querySelectorAll('#loss .side')].map(s => s.offsetLeft)"
            )
    assert len(set(lefts[400])) == 1
    assert len(set(lefts[1400])) == 2


def test_pictures_follow_the_theme(browser: Browser, pages: dict[str, Path]) -> None:
    """The corner of a picture has the color of the page around it."""
    corners = {}
    for scheme in ("light", "dark"):
        with browser_lib.opened(browser, pages["one"], 1400, scheme) as opened:
            corners[scheme] = opened.page.evaluate(
                "(() => { const i = document.images[0], c = document.createElement('canvas');"
                " c.width = c.height = 9; const x = c.getContext('2d'); x.drawImage(i, 0, 0);"
                " return [...x.getImageData(2, 2, 1, 1).data]; })()"
            )
    assert corners == {"light": [255, 255, 255, 255], "dark": [13, 17, 23, 255]}


def test_numbers_show_under_the_pointer(browser: Browser, pages: dict[str, Path]) -> None:
    with browser_lib.opened(browser, pages["one"], 1400, "light") as opened:
        page = opened.page
        page.locator(".vega svg .mark-symbol path").nth(1).hover(force=True)
        page.wait_for_function("document.querySelector('.vg-tooltip.visible')")
        text = page.locator(".vg-tooltip").inner_text()
    assert "MaxVio" in text
    assert "step" in text


def test_the_menu_of_the_chart_is_found_by_its_role(
    browser: Browser, pages: dict[str, Path]
) -> None:
    """What reads the page aloud finds it, within a group that says what the chart is."""
    alt = (
        "A chart for the pointer, of each layer and level over steps. Pictures show MaxVio and"
        " tokens dropped over steps too; how each of its metrics ends stands in the section"
        ' "Levels at the end of training".'
    )
    with browser_lib.opened(browser, pages["one"], 1400, "light") as opened:
        group = opened.page.get_by_role("group", name=alt, exact=True)
        menu = group.get_by_role("combobox", name="show", exact=True)
        assert menu.evaluate("menu => menu.value") == "MaxVio between reports"
        menu.select_option("tokens dropped")
        opened.page.locator(".vega svg .mark-symbol path").nth(1).hover(force=True)
        opened.page.wait_for_function("document.querySelector('.vg-tooltip.visible')")
        assert "tokens dropped" in opened.page.locator(".vg-tooltip").inner_text()
    assert opened.problems == []


def test_nothing_that_a_user_wrote_is_run_or_shown_as_markup(
    browser: Browser, pages: dict[str, Path]
) -> None:
    with browser_lib.opened(browser, pages["one"], 1400, "light") as opened:
        assert opened.page.evaluate("window.hostile === undefined")
        assert opened.page.title() == "Report of a<b>&'\""
        opened.page.locator("summary").first.click()
        assert made_runs.HOSTILE in opened.page.locator("pre").first.inner_text()
    assert opened.problems == []
