"""VeCap's pages in a browser: links, console errors and layout, in all themes and widths.

The pages are served in this process, over versions of an earlier release. `make test-all` repeats this with real
services (`tests/end_to_end/airflow_services/test_every_link.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from airflow.api_fastapi.app import create_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi import FastAPI
from playwright.sync_api import BrowserContext
from vecap_airflow.pages import app as pages

from tests.browser import kind_of, visit_all
from tests.old_versions import MODELS, VERSIONS, unpack

pytestmark = pytest.mark.slow

MODEL = f"{VERSIONS[0]}/vecap-0"


@pytest.fixture
def url(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of the pages, served without a login."""
    monkeypatch.setenv("VECAP_MODELS", str(MODELS))
    monkeypatch.setenv("VECAP_CONFIG", str(unpack(home)))
    create_auth_manager()
    user = SimpleAuthManagerUser(username="admin", role="admin")
    overrides = {get_user: lambda: user, pages.requires_view: lambda: None, pages.requires_change: lambda: None}
    for dependency, override in overrides.items():
        monkeypatch.setitem(pages.app.dependency_overrides, dependency, override)
    airflow = FastAPI()
    airflow.mount("/vecap", pages.app)
    server = uvicorn.Server(uvicorn.Config(airflow, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/vecap"
    server.should_exit = True
    thread.join()


def test_pages_have_no_dead_links_console_errors_or_clipped_text(url: str, browser: BrowserContext) -> None:
    """`test_every_page.py` follows all links; here, one page of each kind and version is opened."""
    kinds: set[str] = set()

    def follow(link: str) -> bool:
        is_new = link.startswith(url) and "/report/" not in link and kind_of(link) not in kinds
        kinds.add(kind_of(link))
        return is_new

    visited, problems = visit_all(browser.new_page(), [f"{url}/versions", f"{url}/lineage?name={MODEL}"], follow)
    assert problems == {}
    paths = {link.removeprefix(url).partition("?")[0] for link in visited}
    for name in VERSIONS:
        assert {f"/versions/{name}{page}" for page in ("", "/samples", "/quarantine", "/sources")} <= paths
        assert f"{url}/lineage?name={name}" in visited
    assert {"/quarantine", "/champion", "/lineage"} <= paths
