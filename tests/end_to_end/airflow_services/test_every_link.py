"""All links between Airflow, VeCap's pages and MLflow, with real services and a real browser.

The versions are one from the demo, a revision of it by `vecap_recaption`, and one that failed the quality gate; the
models are those of the demo. `tests/plugins/test_layout.py` is the short form for `make test`.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from mlflow import MlflowClient
from playwright.sync_api import BrowserContext, FrameLocator, Page, expect

from tests.browser import WIDTHS, Errors, kind_of, log_in, set_theme, visit_all
from tests.crawler import Response, crawl
from tests.end_to_end.airflow_services.test_dags import BAD, FINAL_STATES, await_runs, published, runs
from tests.installation import INTERVAL, Installation, get_with_retries, wait_until
from vecap_tasks.local import airflow, control
from vecap_tasks.local.airflow import Api

pytestmark = [pytest.mark.exhaustive, pytest.mark.services, pytest.mark.timeout(3600)]

REVISION = f"{INTERVAL}-r2"
DAGS = ("vecap_dataset", "vecap_recaption", "vecap_clip")
MODELS = ("alttext-0", "vecap-0")
# MLflow's pages also ask for the user, which needs a login, and for the description of a packaged model.
OPTIONAL = ("users/current", "get-artifact?path=MLmodel")
_MARKDOWN_LINK = re.compile(r"\]\((\S+?)\)")
# What MLflow shows for a link; for an unknown id it shows another page.
_MLFLOW_CONTENT = (
    (re.compile(r"/artifacts/"), "Artifacts"),
    (re.compile(r"/experiments/\d+/runs/[0-9a-f]{32}"), "About this run"),
    (re.compile(r"/experiments/\d+/models/m-"), "About this logged model"),
    (re.compile(r"/experiments/\d+/runs\?"), "Run Name"),
    (re.compile(r"#/models/[^/]+/versions/"), "Registered At"),
)


@dataclass(frozen=True)
class Site:
    """The services with all versions and models."""

    place: Installation
    api: Api

    @property
    def airflow(self) -> str:
        return self.place.settings.airflow.url

    @property
    def mlflow(self) -> str:
        return self.place.settings.mlflow.url

    def get(self, path: str) -> Response:
        """Return the response to a GET of *path* at Airflow; without the body if it led to a page of another system."""
        request = urllib.request.Request(self.airflow + path, headers={"Authorization": f"Bearer {self.api.token}"})
        try:
            with urllib.request.urlopen(request) as answer:
                left = path.startswith("/vecap/") and not answer.url.startswith(f"{self.airflow}/vecap/")
                return Response(answer.status, b"" if left else answer.read())
        except urllib.error.HTTPError as error:
            return Response(error.code, error.read())

    def tasks(self) -> list[tuple[str, dict[str, str]]]:
        """Return the page and the extra links, by name, of every task instance of our DAGs that ran."""
        found = []
        for dag in DAGS:
            for run in runs(self.api, dag):
                path = f"/dags/{dag}/dagRuns/{quote(run['dag_run_id'], safe='')}/taskInstances"
                instances = get_with_retries(self.api, f"/api/v2{path}?limit=200")["task_instances"]
                for task in (task for task in instances if task["state"] in FINAL_STATES):
                    index = task["map_index"]
                    answer = get_with_retries(self.api, f"/api/v2{path}/{task['task_id']}/links?map_index={index}")[
                        "extra_links"
                    ]
                    page = f"/dags/{dag}/runs/{quote(run['dag_run_id'], safe='')}/tasks/{task['task_id']}"
                    found.append((page + (f"/mapped/{index}" if index >= 0 else ""), answer))
        return found

    def notes(self) -> dict[str, str]:
        """Return the descriptions in MLflow by the page that shows them."""
        client = MlflowClient(self.mlflow)
        notes = {}
        for kind in ("gate", "versions", "clip"):
            experiment = client.get_experiment_by_name(f"vecap/demo/{kind}").experiment_id
            for run in client.search_runs([experiment]):
                notes[f"#/experiments/{experiment}/runs/{run.info.run_id}"] = run.data.tags["mlflow.note.content"]
            for model in client.search_logged_models([experiment]):
                notes[f"#/experiments/{experiment}/models/{model.model_id}"] = model.tags["mlflow.note.content"]
        for version in client.search_model_versions("name = 'demo-clip'"):
            notes[f"#/models/demo-clip/versions/{version.version}"] = version.description
        return notes


@pytest.fixture(scope="module")
def site(installation: tuple[Installation, str]) -> Site:
    place, _ = installation
    api = airflow.api(place.settings)
    await_runs(api, "vecap_clip", 1, INTERVAL)
    api.patch("/api/v2/dags/vecap_clip", {"is_paused": True})  # the revision needs no models
    if REVISION not in published(place):
        conf = {"from": INTERVAL, "to": INTERVAL, "overrides": ["rewrite.llm.max_new_tokens=48"], "groups": 1}
        api.post("/api/v2/dags/vecap_recaption/dagRuns", {"logical_date": None, "conf": conf})
        wait_until(lambda: runs(api, "vecap_recaption")[-1]["state"] in FINAL_STATES, 1200, "the revision", 1)
    if not runs(api, "vecap_dataset", BAD):
        web = ("--out", str(place.home / "web"), "--day", BAD, "--days", "1", "--images", "24", "--bad-day", BAD)
        assert place.vecap("demo", "web", *web).returncode == 0
        body = {"logical_date": None, "partition_key": BAD, "conf": {"groups": 1}}
        api.post("/api/v2/dags/vecap_dataset/dagRuns", body)
    assert await_runs(api, "vecap_dataset", 1, INTERVAL, BAD) == {INTERVAL: "success", BAD: "failed"}
    assert {INTERVAL, REVISION} <= set(published(place))
    return Site(place, api)


@pytest.fixture(scope="module")
def window(site: Site, browser: BrowserContext) -> Iterator[Page]:
    """A page that is logged in to Airflow."""
    page = browser.new_page()
    log_in(page, site.airflow, airflow.USER, airflow.password(site.place.settings))
    yield page
    page.close()


def frame(page: Page) -> FrameLocator:
    """Return VeCap's frame in Airflow's UI."""
    return page.frame_locator("iframe[title=VeCap]")


def open_vecap(page: Page, url: str, heading: str | re.Pattern[str]) -> None:
    """Open *url*, a page of VeCap in Airflow's UI, and wait for its *heading*."""
    page.goto(url)
    expect(frame(page).get_by_role("heading", name=heading).first).to_be_visible()


def open_mlflow(page: Page, url: str) -> None:
    """Open *url* in MLflow and wait for what it must show."""
    page.goto(url)
    content = next(content for pattern, content in _MLFLOW_CONTENT if pattern.search(url))
    expect(page.get_by_text(content).first).to_be_visible()


def failed_requests(errors: Errors) -> list[str]:
    return [error for error in errors.take() if re.match(r"\d{3} ", error)]


def test_every_link_of_the_pages_of_vecap(site: Site, window: Page) -> None:
    found = crawl(site.get, "/vecap/versions", "/vecap/lineage?name=models:/demo-clip@champion")
    failed = {url: answer.status for url, answer in found.items() if answer.status != 200}
    assert {url for url in failed if not url.endswith("/favicon.ico")} == set()
    for name in (INTERVAL, REVISION):
        for page in ("", "/samples", "/quarantine", "/sources", "/recorded/mlflow", "/recorded/models"):
            assert f"/vecap/versions/{name}{page}" in found
    assert {f"/vecap/versions/{BAD}", f"/vecap/versions/{BAD}/report/index.html"} <= found.keys()
    assert all(f"/vecap/lineage?name={INTERVAL}%2F{model}" in found for model in MODELS)

    root = f"{site.airflow}/vecap"
    kinds: set[str] = set()

    def follow(link: str) -> bool:
        is_new = (
            link.startswith(root) and not re.search("/(report|recorded|models)/", link) and kind_of(link) not in kinds
        )
        kinds.add(kind_of(link))
        return is_new

    starts = [f"{root}/versions", f"{root}/lineage?name=models:/demo-clip@champion"]
    visited, problems = visit_all(window, starts, follow)
    assert problems == {}
    assert len(visited) > 20


def test_pages_follow_airflow_s_theme_and_open_other_windows(site: Site, visitor: Page) -> None:
    page = visitor
    log_in(page, site.airflow, airflow.USER, airflow.password(site.place.settings))
    page.goto(site.airflow)
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="VeCap").click()
    expect(frame(page).get_by_role("heading", name="Versions", exact=True)).to_be_visible()
    backgrounds = {}
    for theme in ("Dark", "Light"):
        set_theme(page, theme)
        body = frame(page).locator("body")
        expect(page.locator("html")).to_have_class(re.compile(theme.lower()))
        backgrounds[theme] = body.evaluate("body => getComputedStyle(body).backgroundColor")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert body.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    assert backgrounds == {"Dark": "rgb(20, 24, 30)", "Light": "rgb(255, 255, 255)"}
    frame(page).get_by_role("link", name=INTERVAL, exact=True).click()
    expect(frame(page).get_by_role("heading", name="Quality gate")).to_be_visible()
    expected = {
        "Quality report": "/report/index.html",
        "MLflow run": f"{site.mlflow}/#/experiments/",
        "Models in MLflow": "searchFilter=dataset.name",
        "Airflow run": "/dags/vecap_dataset/runs/",
    }
    for name, part in expected.items():
        with page.context.expect_page() as opened:
            frame(page).get_by_role("link", name=name).click()
        opened.value.wait_for_url(lambda url, part=part: part in url)
        opened.value.close()


def test_every_link_of_airflow(site: Site, window: Page) -> None:
    errors = Errors(window, *OPTIONAL)
    tasks = site.tasks()
    targets = {url for _, answer in tasks for url in answer.values() if url}
    assert {name for _, answer in tasks for name, url in answer.items() if url} == {
        "Dataset version",
        "MLflow run",
        "Quality report",
        "Registered model",
    }
    for dag in DAGS:
        window.goto(f"{site.airflow}/dags/{dag}")
        window.get_by_role("button", name="Documentation").or_(window.get_by_label("Dag Docs")).first.click()
        documentation = window.get_by_role("dialog")
        expect(documentation.get_by_text("Result", exact=True)).to_be_visible()
        targets.update(documentation.get_by_role("link").evaluate_all("all => all.map(a => a.href)"))
    asset = site.api.get("/api/v2/assets?name_pattern=vecap_dataset_version")["assets"][0]
    window.goto(f"{site.airflow}/assets/{asset['id']}")
    expect(window.get_by_text(f"{site.airflow}/plugin/vecap/vecap/versions")).to_be_visible()
    events = site.api.get("/api/v2/assets/events?limit=100")["asset_events"]
    targets.update(event["extra"]["page"] for event in events)
    assert {f"{site.airflow}/plugin/vecap/vecap/{page}" for page in ("versions", "champion")} <= targets
    for url in sorted(targets):
        if url.startswith(site.airflow):
            open_vecap(window, url, re.compile("."))
        else:
            open_mlflow(window, url)
    assert failed_requests(errors) == []


@pytest.mark.parametrize(
    ("task", "buttons"),
    [
        ("open_version", {"Dataset version"}),
        ("crawl.run", {"Dataset version"}),
        ("quality.commit", {"Dataset version", "Quality report"}),
        ("publish", {"Dataset version", "MLflow run"}),
        ("record", {"Dataset version", "MLflow run"}),
        ("promote", {"Dataset version", "Registered model"}),
    ],
)
def test_the_page_of_a_task_has_buttons(site: Site, window: Page, task: str, buttons: set[str]) -> None:
    page = next(
        page for page, answer in site.tasks() if f"/tasks/{task}" in page and all(answer.get(b) for b in buttons)
    )
    for width in WIDTHS:
        window.set_viewport_size({"width": width, "height": 900})
        window.goto(f"{site.airflow}{page}/details")
        for name in buttons:
            expect(window.get_by_role("link", name=name)).to_be_visible()
    window.set_viewport_size({"width": WIDTHS[0], "height": 900})
    window.get_by_role("link", name="Dataset version").click()
    expect(frame(window).get_by_role("heading", name=re.compile("^2026"))).to_be_visible()


def test_every_link_in_mlflow(site: Site, browser: BrowserContext, window: Page) -> None:
    page = browser.new_page()
    errors = Errors(page, *OPTIONAL)
    notes = site.notes()
    found = {link for note in notes.values() for link in _MARKDOWN_LINK.findall(note)}
    in_mlflow = {link for link in found if link.startswith("#/")} | notes.keys()
    for link in sorted(in_mlflow):
        open_mlflow(page, f"{site.mlflow}/{link}")
    assert failed_requests(errors) == []
    pages = {link for link in found if "/plugin/vecap/" in link}
    assert {f"{site.airflow}/plugin/vecap/vecap/versions/{name}" for name in (INTERVAL, REVISION, BAD)} <= pages
    for link in sorted(pages):
        open_vecap(window, link, re.compile("."))
    tasks = found - in_mlflow - pages
    assert {unquote(link).partition("/dags/")[2].partition("/")[0] for link in tasks} == set(DAGS)
    for link in sorted(tasks):
        window.goto(link)
        expect(window.get_by_text("Dag Version").first).to_be_visible()


def test_the_printed_url_opens_the_runs_of_the_models(site: Site, visitor: Page) -> None:
    """In a new browser: MLflow remembers filters."""
    page = visitor
    page.goto(control.endpoints(site.place.settings).mlflow)
    expect(page.get_by_role("link", name=f"{INTERVAL} arms").first).to_be_visible()
    assert page.get_by_text("Traces", exact=True).count() <= 1, "the navigation of the view for training has it, too"
    expect(page.get_by_text("Latency")).to_have_count(0)


def test_an_auditor_goes_from_the_champion_to_the_crawl_file_and_back(site: Site, visitor: Page) -> None:
    """Only clicks, from MLflow's start page. Airflow asks for a login on the way."""
    page = visitor
    page.goto(site.mlflow)
    page.get_by_role("button", name="Model training", exact=True).click()
    page.get_by_role("link", name="Model registry").click()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()  # news, in a new browser
    page.get_by_role("link", name="demo-clip", exact=True).click()
    page.get_by_role("link", name="Version 1").click()
    expect(page.get_by_text("@ champion").first).to_be_visible()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Lineage in VeCap").click()
    vecap = opened.value
    vecap.get_by_label("Username").fill(airflow.USER)
    vecap.get_by_label("Password").first.fill(airflow.password(site.place.settings))
    vecap.get_by_role("button", name="Sign in").click()
    expect(frame(vecap).get_by_role("heading", name="Lineage of m-")).to_be_visible()

    frame(vecap).locator("svg.graph a", has_text="crawl").first.click()
    expect(frame(vecap).get_by_role("heading", name=f"Source files of {INTERVAL}")).to_be_visible()
    manifest = json.loads((site.place.store / INTERVAL / "crawl" / "manifest.json").read_bytes())
    (source,) = [item for item in manifest["content"]["inputs"] if item["kind"] == "source"]
    expect(frame(vecap).get_by_text(source["digest"])).to_be_visible()
    path = Path(site.place.home) / "web" / "warc" / f"{INTERVAL}.warc.gz"
    expect(frame(vecap).get_by_text(str(path))).to_be_visible()

    for model in MODELS:
        expect(frame(vecap).get_by_role("link", name=model).first).to_be_visible()
    frame(vecap).get_by_role("link", name="vecap-0").first.click()
    expect(frame(vecap).get_by_role("heading", name=f"Lineage of {INTERVAL}/vecap-0")).to_be_visible()
    with vecap.context.expect_page() as back:
        frame(vecap).get_by_role("link", name="Model in MLflow").click()
    expect(back.value.get_by_role("heading", name=f"demo-{INTERVAL}-vecap-0")).to_be_visible()
    back.value.close()
    frame(vecap).get_by_role("link", name="Source files").click()
    expect(frame(vecap).get_by_role("heading", name=f"Source files of {INTERVAL}")).to_be_visible()


def test_the_lineage_page_finds_the_champion_by_its_name(site: Site, window: Page) -> None:
    open_vecap(window, f"{site.airflow}/plugin/vecap/vecap/lineage", "Lineage")
    expect(frame(window).get_by_role("link", name="models:/demo-clip@champion")).to_be_visible()
    frame(window).get_by_label("Version or model").fill("models:/demo-clip@champion")
    frame(window).get_by_role("button", name="Show").click()
    expect(frame(window).get_by_role("heading", name="Lineage of models:/demo-clip@champion")).to_be_visible()
    expect(frame(window).locator("svg.graph").get_by_role("link", name=re.compile("^source"))).to_be_visible()


@pytest.mark.parametrize(
    ("dag", "fields"),
    [
        ("vecap_dataset", ("Interval", "Configuration", "Overrides")),
        ("vecap_clip", ("Version", "Configuration", "Overrides")),
        ("vecap_recaption", ("From", "To", "Vision-language model", "Language model", "Overrides")),
    ],
)
def test_the_trigger_form_shows_and_checks_the_important_fields(
    site: Site, window: Page, dag: str, fields: tuple[str, ...]
) -> None:
    before = len(runs(site.api, dag))
    window.goto(f"{site.airflow}/dags/{dag}")
    window.get_by_role("button", name="Trigger").first.click()
    form = window.get_by_role("dialog")
    for field in fields:
        label = form.locator("label", has_text=re.compile(rf"^{field}\s*\*?$"))
        label.scroll_into_view_if_needed()
        expect(label).to_be_visible()
    name = {"vecap_dataset": "interval", "vecap_clip": "version", "vecap_recaption": "from"}[dag]
    form.locator(f"#element_{name}").fill("2026-1-1")
    form.get_by_role("button", name="Trigger").click()
    expect(form.get_by_text(f"Invalid input for param {name}: '2026-1-1'")).to_be_visible()
    assert len(runs(site.api, dag)) == before
