"""A real browser: Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, Response, expect, sync_playwright

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE = 60_000  # milliseconds for a page to show something, on a busy machine
WINDOW = {"width": 1440, "height": 900}


@pytest.fixture(scope="module")
def chromium() -> str:
    """The path of the browser. Without one the test is left out, and fails in continuous integration."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None and os.environ.get("CI"):
        pytest.fail("there is no Chromium: the pages were not tried in a browser; .ci/run installs one")
    if found is None:
        pytest.skip("needs Chromium: on Debian and Ubuntu install the package chromium")
    return found


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=chromium, args=list(FLAGS), viewport=WINDOW
        )
        context.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield context
        context.close()


def follow_links(window: Page, url: str, leave: str) -> dict[str, int]:
    """Open *url* and every link on it to its own server, but for URLs that contain *leave*.

    Return what failed, pictures and styles of these pages among it: URLs with their statuses, 400 and more. An icon in
    Great Expectations' pages, which they do not have, is left out.
    """
    failed: dict[str, int] = {}

    def note(answer: Response) -> None:
        if answer.status >= 400 and not answer.url.endswith("/favicon.ico"):
            failed[answer.url] = answer.status

    window.on("response", note)
    try:
        window.goto(url)
        links = window.eval_on_selector_all("a[href]", "all => all.map(a => String(a.href))")
        server = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/"
        for link in dict.fromkeys(links):
            if link.startswith(server) and leave not in link:
                window.goto(link)
    finally:
        window.remove_listener("response", note)
    return failed
