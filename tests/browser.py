"""Fixtures for browser tests: Chromium, driven by Playwright."""

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
TIMEOUT_MS = 60_000  # long enough for a busy machine
WINDOW = {"width": 1440, "height": 900}


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
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=chromium, args=list(FLAGS), viewport=WINDOW
        )
        context.set_default_timeout(TIMEOUT_MS)
        expect.set_options(timeout=TIMEOUT_MS)
        yield context
        context.close()


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
