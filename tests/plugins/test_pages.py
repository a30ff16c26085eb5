"""The pages on a real Airflow API server: permissions, contents, and handling of hostile text."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect
from vecap_airflow.pages import rendering

from tests.browser import follow_links
from tests.conftest import REPOSITORY
from tests.quality.factories import Row, configure, give_captions, give_crawl, picture, run, use_given
from vecap_tasks import lineage
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import read_version
from vecap_tasks.local.airflow import Api

pytestmark = [pytest.mark.exhaustive, pytest.mark.services, pytest.mark.timeout(1200)]

HOSTILE = '"><script>document.title="taken"</script><img src=x onerror="document.title=\'taken\'"> {{ 7*7 }} Heron'


@dataclass(frozen=True)
class Served:
    """An API server at `url`, with the dataset in `home`."""

    url: str
    home: Path

    def get(self, path: str, user: str | None = "admin") -> tuple[int, dict[str, str], bytes]:
        return self._request(urllib.request.Request(self.url + path), user)

    def redirect_of(self, path: str) -> str:
        """Return the redirect target of *path*."""
        server = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc)
        server.request("GET", path, headers={"Authorization": f"Bearer {Api.login(self.url, 'admin', 'admin').token}"})
        answer = server.getresponse()
        assert answer.status == 307, answer.read()
        return str(answer.headers["location"])

    def send(self, path: str, form: dict[str, str], user: str | None = "admin", origin: str = "") -> int:
        """Post a form; return the final status."""
        headers = {"Origin": origin or self.url, "Content-Type": "application/x-www-form-urlencoded"}
        data = urllib.parse.urlencode(form).encode()
        return self._request(urllib.request.Request(self.url + path, data, headers, method="POST"), user)[0]

    def _request(self, request: urllib.request.Request, user: str | None) -> tuple[int, dict[str, str], bytes]:
        if user is not None:
            request.add_header("Authorization", f"Bearer {Api.login(self.url, user, user).token}")
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()


LATER = ("2026-01-03", "2026-01-03-r2")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a published version, an unpublished version, and `LATER`: a later version and its revision."""
    home = tmp_path_factory.mktemp("pages")
    mlflow = {"tracking_uri": f"sqlite:///{home}/mlflow.db", "ui_url": "https://mlflow.example"}
    config = configure(home, mlflow=mlflow, quality={"gate": {"min_accepted_share": {"warn": 0.99}}})
    rejected = (
        Row(caption=f"An icon {HOSTILE}", original_width=8, original_height=8),
        Row(status="failed_to_download"),
    )
    beagles = (Row(caption=f"Beagle no. {n} at the fair") for n in range(30))
    give_crawl(home, [*beagles, Row(caption=HOSTILE), *rejected])
    with pytest.MonkeyPatch.context() as patch:
        use_given(patch)
        for name in ("crawl", "quality"):
            run(name, config)
        give_captions(config)
        for name in ("rewrite", "assemble"):
            run(name, config)
    version = {"dataset": "given", "interval": "2026-01-01", "revision": 1, "fingerprint": "", "config": {}}
    (home / "store" / "given" / "2026-01-01" / "version.json").write_text(json.dumps(version))
    unpublished = version | {"interval": "2026-01-02"}
    (home / "store" / "given" / "2026-01-02").mkdir()
    (home / "store" / "given" / "2026-01-02" / "version.json").write_text(json.dumps(unpublished))
    for revision, name in enumerate(LATER, 1):
        folder = shutil.copytree(home / "store" / "given" / "2026-01-01", home / "store" / "given" / name)
        later = version | {"interval": LATER[0], "revision": revision, "config": {"rewrite": {"revision": revision}}}
        (folder / "version.json").write_text(json.dumps(later))
    for name in ("2026-01-01", *LATER):
        tags = {"airflow.url": "https://airflow.example/run"}
        lineage.record_version(config, read_version(Store(config.root), "given", name), tags)
    (home / "config.yaml").write_text(config.model_dump_json())
    (home / "passwords.json").write_text(json.dumps({"admin": "admin", "viewer": "viewer"}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,viewer:viewer",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "VECAP_CONFIG": str(home / "config.yaml"),
        "PYTHONPATH": str(REPOSITORY),
    }
    environment = {name: text for name, text in os.environ.items() if not name.startswith("AIRFLOW")} | variables
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], env=environment, check=True, capture_output=True)
    with (home / "api.log").open("wb") as log:
        command = [*airflow, "api-server", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    site = Served(f"http://127.0.0.1:{port}", home)
    try:
        for _ in range(480):
            assert server.poll() is None, (home / "api.log").read_text()
            try:
                if site.get("/api/v2/version", None)[0] == 200:
                    break
            except urllib.error.URLError:
                time.sleep(0.25)
        yield site
    finally:
        server.terminate()
        server.wait(30)


QUARANTINE = "/vecap/versions/2026-01-01/quarantine"
PAGES = (
    QUARANTINE,
    "/vecap/quarantine",
    "/vecap/lineage",
    "/vecap/lineage?name=2026-01-01",
    "/vecap/versions",
    "/vecap/versions/2026-01-01",
    "/vecap/versions/2026-01-01/samples",
    "/vecap/versions/2026-01-01/sources",
    f"/vecap/compare/{1:032x}",
)
IMAGE = "/vecap/versions/2026-01-01/images/000000001"


def test_pages_and_images_require_a_login(served: Served) -> None:
    for path in (*PAGES, IMAGE, "/vecap/style.css", "/vecap/"):
        assert served.get(path, None)[0] in (401, 403), path
    for path in ("/vecap/openapi.json", "/vecap/docs"):
        assert served.get(path, None)[0] == 404


def test_users_who_can_view_the_dag_can_view_all_pages(served: Served) -> None:
    for path in PAGES:
        status, headers, body = served.get(path, "viewer")
        assert status == 200, body
        assert re.search(r"script-src 'sha256-[\w+/=]+';", headers["content-security-policy"])
        assert "default-src 'none'" in headers["content-security-policy"]
        assert b"<script" not in body.replace(f"<script>{rendering.SCRIPT}</script>".encode(), b"")
        assert b"2026-01-01" in body


def test_images_are_served_unchanged_from_the_crawl(served: Served) -> None:
    status, headers, body = served.get(IMAGE)
    assert (status, headers["content-type"], body) == (200, "image/jpeg", picture(1))
    assert Image.open(io.BytesIO(body)).size == (64, 48)
    for key in ("999990000", "..%2F..%2Fversion.json", "x"):
        assert served.get(f"/vecap/versions/2026-01-01/images/{key}")[0] == 404
    assert served.get("/vecap/versions/..%2F..%2Fetc/images/000000001")[0] == 404


def test_samples_are_filtered_and_paged(served: Served) -> None:
    body = served.get("/vecap/versions/2026-01-01/samples?text=beagle%20no.%207%20")[2].decode()
    assert "1 sample<" in body
    assert body.count('class="card"') == 1
    second = served.get("/vecap/versions/2026-01-01/samples?first=24")[2].decode()
    assert second.count('class="card"') == 7
    assert served.get("/vecap/versions/2026-01-01/samples?first=-1")[0] == 422
    assert served.get("/vecap/versions/2026-01-01/samples?reason=x%3Dy")[0] == 404
    assert "No samples match these filters." in served.get("/vecap/versions/2026-01-01/samples?text=zebra")[2].decode()


def test_a_version_page_shows_gate_findings_and_links_to_the_report(served: Served) -> None:
    body = served.get("/vecap/versions/2026-01-01")[2].decode()
    assert "Warning:" in body
    assert "accepted share" in body.replace("_", " ")
    docs = re.findall(r'report/(data_docs/validations/[^"]+\.html)"', body)
    assert [path.split("/")[2] for path in docs] == ["measures", "sample"]
    for page in ("index.html", *docs):
        status, headers, report = served.get(f"/vecap/versions/2026-01-01/report/{page}", "viewer")
        assert (status, headers["content-type"].partition(";")[0]) == (200, "text/html")
        assert headers["content-security-policy"].startswith("sandbox")
        assert b"Great Expectations" in report or b"great_expectations" in report
    for path in ("x.html", "../verdicts.parquet", "..%2F..%2F..%2F2026-01-01%2Fversion.json", "%2Fetc%2Fpasswd", ""):
        assert served.get(f"/vecap/versions/2026-01-01/report/{path}")[0] == 404
    assert served.get("/vecap/versions/2026-01-01/report/index.html", None)[0] in (401, 403)


def test_a_version_page_links_to_its_runs(served: Served) -> None:
    url = "/vecap/versions/2026-01-01/recorded"
    assert served.redirect_of(f"{url}/mlflow").startswith("https://mlflow.example/#/experiments/")
    assert served.redirect_of(f"{url}/airflow") == "https://airflow.example/run"
    status, _, body = served.get("/vecap/versions/2026-01-02/recorded/mlflow")
    assert status == 404
    assert b"is not published" in body


def test_an_unknown_version_is_not_found(served: Served) -> None:
    status, _, body = served.get("/vecap/versions/2030-01-01")
    assert status == 404
    assert b"has no version 2030-01-01" in body


def test_hostile_text_is_escaped(served: Served) -> None:
    body = served.get("/vecap/versions/2026-01-01/samples?text=heron")[2].decode()
    assert "&lt;script&gt;" in body
    assert "onerror=&#34;" in body
    assert "{{ 7*7 }}" in body


def test_rejected_rows_are_filtered_by_reason(served: Served) -> None:
    everything = served.get(QUARANTINE)[2].decode()
    assert everything.count('class="card"') == 2
    small = served.get(f"{QUARANTINE}?reason=too_small")[2].decode()
    assert small.count('class="card"') == 1
    assert "8 × 8" in small
    assert "&lt;script&gt;" in small
    assert "<script" not in (everything + small).replace(f"<script>{rendering.SCRIPT}</script>", "")
    assert small.count("<button>Release") == 2
    assert "This release adds <strong>1 row</strong>" in small
    assert "<button>Release" not in served.get(f"{QUARANTINE}?reason=not_downloaded")[2].decode()


def test_only_users_who_can_trigger_the_dag_can_release_rows(served: Served) -> None:
    entries = served.home / "store" / "given" / "_releases" / "2026-01-01"
    form = {"reason": "too_small", "note": "icons are meant"}
    assert served.send(QUARANTINE, form, "viewer") == 403
    assert served.send(QUARANTINE, form, None) == 401
    assert served.send(QUARANTINE, form, origin="https://elsewhere.example") == 403
    assert served.send(QUARANTINE, form | {"note": ""}) == 422
    assert served.send(QUARANTINE, form | {"reason": "not_downloaded"}) == 404
    assert not entries.exists()
    assert "<button>Release" not in served.get(f"{QUARANTINE}?reason=too_small", "viewer")[2].decode()
    assert served.send(QUARANTINE, form) == 200
    (entry,) = [json.loads(file.read_text()) for file in entries.iterdir()]
    assert (entry["reason"], entry["note"], entry["by"], entry["action"]) == (
        "too_small", "icons are meant", "admin", "release",
    )  # fmt: skip
    assert "icons are meant" in served.get(QUARANTINE)[2].decode()


def test_lineage_is_shown_as_graph_and_text(served: Served) -> None:
    body = served.get("/vecap/lineage?name=2026-01-01")[2].decode()
    assert body.count('class="box') >= 5
    for stage in ("assemble", "rewrite", "quality", "crawl"):
        assert f">{stage}<" in body
    assert served.get("/vecap/lineage?name=2030-01-01")[0] == 404


@pytest.fixture(scope="module")
def window(served: Served, browser: BrowserContext) -> Iterator[Page]:
    """A browser page after login with Airflow's form."""
    page = browser.new_page()
    page.goto(f"{served.url}/auth/login")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").first.fill("admin")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "/auth/login" not in url)
    yield page
    page.close()


@pytest.mark.parametrize("path", ["samples?text=heron", "quarantine?reason=too_small"], ids=["samples", "quarantine"])
def test_a_browser_runs_no_crawled_text(served: Served, window: Page, path: str) -> None:
    window.goto(f"{served.url}/vecap/versions/2026-01-01/{path}")
    expect(window.get_by_text(HOSTILE).first).to_be_visible()
    assert "taken" not in window.title()
    assert window.locator("img[src=x], [onerror], body script").count() == 0
    images = window.locator("article img")
    images.first.scroll_into_view_if_needed()
    assert images.first.evaluate("image => image.decode().then(() => image.naturalWidth)") in (64, 8)


def test_pages_support_keyboard_navigation_and_dark_mode(served: Served, window: Page) -> None:
    window.goto(f"{served.url}/vecap/versions")
    for _ in range(20):
        window.keyboard.press("Tab")
        if window.evaluate("document.activeElement.textContent") == "2026-01-01":
            break
    assert window.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    window.keyboard.press("Enter")
    expect(window.get_by_role("heading", name="Quality gate")).to_be_visible()
    backgrounds = set()
    for scheme in ("light", "dark"):
        window.emulate_media(color_scheme=scheme)
        backgrounds.add(window.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds == {"rgb(255, 255, 255)", "rgb(20, 24, 30)"}


@pytest.mark.parametrize("version", ["2026-01-01", "2026-01-02", *LATER])
def test_every_link_of_a_version_opens_in_a_browser(served: Served, window: Page, version: str) -> None:
    assert follow_links(window, f"{served.url}/vecap/versions/{version}", skip="/recorded/") == {}


def test_the_frame_follows_airflow_s_theme_and_opens_windows(served: Served, window: Page) -> None:
    window.emulate_media(color_scheme="light")
    window.goto(f"{served.url}/plugin/vecap")
    frame = window.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Versions", exact=True)).to_be_visible()
    background = "getComputedStyle(document.body).backgroundColor"
    assert frame.locator("body").evaluate(f"() => {background}") == "rgb(255, 255, 255)"
    for theme, color in (("dark", "rgb(20, 24, 30)"), ("light", "rgb(255, 255, 255)")):
        window.evaluate("theme => localStorage.setItem('theme', theme)", theme)
        expect(frame.locator("html")).to_have_attribute("data-theme", theme)
        assert frame.locator("body").evaluate(f"() => {background}") == color
    window.emulate_media(color_scheme="dark")
    assert frame.locator("body").evaluate(f"() => {background}") == "rgb(255, 255, 255)", "Airflow's choice counts"
    window.evaluate("localStorage.removeItem('theme')")
    frame.get_by_role("link", name="2026-01-01").click()
    with window.context.expect_page() as opened:
        frame.get_by_role("link", name="Quality report").click()
    expect(opened.value.get_by_role("heading", name="Measures")).to_be_visible()
    opened.value.close()
    frame.get_by_role("link", name="Samples").click()
    with window.expect_download() as download:
        frame.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "given-2026-01-01-samples.csv"


def test_pages_send_no_requests_to_other_servers(served: Served, window: Page) -> None:
    urls: list[str] = []
    window.on("request", lambda request: urls.append(request.url))
    for path in (*PAGES, "/vecap/versions/2026-01-01/report/index.html"):
        window.goto(served.url + path)
    assert urls
    assert [url for url in urls if not url.startswith(served.url)] == []
