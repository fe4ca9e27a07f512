"""Opens a page in the system's Chromium, and records what goes wrong in it."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """Returns the path of the system's browser, or None."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


@contextlib.contextmanager
def started() -> Iterator[Browser]:
    """Starts the browser, without a window."""
    with sync_playwright() as playwright:
        path = executable()
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclasses.dataclass
class Opened:
    """A page that is open.

    Attributes:
      page: the page.
      problems: errors of its scripts and console, and what it asked of the network.
    """

    page: Page
    problems: list[str]


@contextlib.contextmanager
def opened(browser: Browser, path: Path, width: int, scheme: str) -> Iterator[Opened]:
    """Opens a file in a window so wide, where light or dark pages are preferred."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = context.new_page()
    problems: list[str] = []

    def on_request(route: Route) -> None:
        if route.request.url == path.as_uri():
            route.continue_()
        else:
            problems.append(f"asked for {route.request.url[:200]}")
            route.abort()

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            problems.append(f"{message.type}: {message.text}")

    page.route("**/*", on_request)
    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function(
        "document.querySelectorAll('script.spec').length =="
        " document.querySelectorAll('.vega svg').length"
    )
    yield Opened(page, problems)
    context.close()
