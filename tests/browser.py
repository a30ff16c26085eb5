"""Fixtures for browser tests: Chromium, driven by Playwright; links, errors and layout of pages."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urldefrag, urlsplit

import pytest
from playwright.sync_api import (
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    Response,
    ViewportSize,
    expect,
    sync_playwright,
)

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
TIMEOUT_MS = 240_000  # long enough for a busy machine
WINDOW: ViewportSize = {"width": 1440, "height": 900}
WIDTHS = (1366, 390)  # of a laptop and a phone
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
_DOWNLOADS = (".csv", ".parquet")
_LAYOUT = Path(__file__).with_name("layout.js").read_text(encoding="utf-8")
_LINKS = "all => all.map(a => new URL(a.getAttribute('href'), document.baseURI).href)"  # also of links in SVG


@pytest.fixture(scope="module")
def chromium() -> str:
    """Return the path of Chromium. Without it, tests are skipped locally and fail in continuous integration."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None and os.environ.get("CI"):
        pytest.fail("Chromium not found; .ci/run installs it")
    if found is None:
        pytest.skip("Chromium not found; on Debian and Ubuntu, install the package chromium")
    return found


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        expect.set_options(timeout=TIMEOUT_MS)
        yield started


@pytest.fixture(scope="module")
def browser(
    playwright: Playwright, chromium: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserContext]:
    context = playwright.chromium.launch_persistent_context(
        tmp_path_factory.mktemp("profile"), executable_path=chromium, args=list(FLAGS), viewport=WINDOW
    )
    context.set_default_timeout(TIMEOUT_MS)
    yield context
    context.close()


@pytest.fixture
def visitor(playwright: Playwright, chromium: str) -> Iterator[Page]:
    """A page in a browser without cookies or settings; its color scheme is not emulated."""
    browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
    context = browser.new_context(viewport=WINDOW, color_scheme="null")
    context.set_default_timeout(TIMEOUT_MS)
    yield context.new_page()
    browser.close()


def log_in(page: Page, airflow: str, user: str, password: str) -> None:
    """Log in with Airflow's form."""
    page.goto(f"{airflow}/auth/login")
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password").first.fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "/auth/login" not in url)


def set_theme(page: Page, theme: str) -> None:
    """Select *theme*, "Light" or "Dark", in Airflow's menu."""
    page.get_by_role("button", name="User").click()
    page.get_by_role("menuitem", name="Appearance").hover()
    page.get_by_role("menuitemradio", name=f"{theme} Mode").or_(
        page.get_by_role("menuitem", name=f"{theme} Mode")
    ).click()
    page.keyboard.press("Escape")


def follow_links(window: Page, url: str, skip: str) -> dict[str, int]:
    """Open *url* and all its links to the same server, except URLs that contain *skip*.

    Return the URLs and statuses (400 and above) of failed requests, including images and styles. The missing icon of
    Great Expectations' pages is ignored.
    """
    failed: dict[str, int] = {}

    def record_failure(response: Response) -> None:
        if response.status >= 400 and not response.url.endswith("/favicon.ico"):
            failed[response.url] = response.status

    window.on("response", record_failure)
    try:
        window.goto(url)
        links = window.eval_on_selector_all("a[href]", "all => all.map(a => String(a.href))")
        server = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/"
        for link in dict.fromkeys(links):
            if link.startswith(server) and skip not in link:
                window.goto(link)
    finally:
        window.remove_listener("response", record_failure)
    return failed


class Errors:
    """The errors of *page* since the last `take`: failed requests and console errors, except those with *ignored* in
    their URL."""

    def __init__(self, page: Page, *ignored: str) -> None:
        self._ignored = ("/favicon.ico", *ignored)
        self._found: list[str] = []
        page.on("response", self._on_response)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._found.append(str(error)))

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and not any(part in response.url for part in self._ignored):
            self._found.append(f"{response.status} {response.url}")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(part in str(message.location.get("url")) for part in self._ignored):
            self._found.append(message.text)

    def take(self) -> list[str]:
        """Return the errors since the last call."""
        found, self._found = self._found, []
        return found


def links(page: Page) -> list[str]:
    """Return the absolute URLs of all links of *page*, without fragments, each once."""
    found = page.eval_on_selector_all("a[href]", _LINKS)
    return list(dict.fromkeys(urldefrag(url).url for url in found))


def layout_problems(page: Page) -> list[str]:
    """Return what is clipped or overflows on *page*, in all themes and widths (see `layout.js`)."""
    problems: dict[str, None] = {}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": WINDOW["height"]})
        for theme in THEMES:
            page.emulate_media(color_scheme=theme)
            problems |= dict.fromkeys(f"{width} px, {theme}: {problem}" for problem in page.evaluate(_LAYOUT))
    return list(problems)


def kind_of(link: str) -> str:
    """Return the kind of VeCap page that *link* opens: its path without identifiers of samples, and the name in a
    lineage."""
    path, _, query = link.partition("?")
    return re.sub(r"/compare/.*", "/compare", path) + (query if path.endswith("/lineage") else "")


def visit_all(page: Page, starts: list[str], follow: Callable[[str], bool]) -> tuple[set[str], dict[str, list[str]]]:
    """Open *starts* and, from there, all links that *follow* accepts.

    Return the visited URLs, and the errors and layout problems by URL.
    """
    errors = Errors(page)
    problems: dict[str, list[str]] = {}
    visited: set[str] = set()
    queue = list(starts)
    while queue:
        url = queue.pop()
        if url in visited:
            continue
        visited.add(url)
        if urlsplit(url).path.endswith(_DOWNLOADS):
            answer = page.request.get(url)
            if answer.status != 200:
                problems[url] = [f"status {answer.status}"]
            continue
        response = page.goto(url)
        found = errors.take() + layout_problems(page)
        if response is None or response.status != 200:
            found.append(f"status {response and response.status}")
        if found:
            problems[url] = found
        queue += [link for link in links(page) if follow(link)]
    return visited, problems
