"""An audit with only MLflow's UI, in a real browser: clicking from a model to the crawl files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from vecap_tasks import lineage
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.stage import load_stage

pytestmark = [pytest.mark.exhaustive, pytest.mark.services]

GATE_MESSAGE = "too few rows: 3 of <b>16</b> [accepted]"


@dataclass(frozen=True)
class Recorded:
    """The MLflow server at `url` and its contents."""

    url: str
    crawl: Manifest
    failed_report: str  # link to the report of a failed quality gate


@pytest.fixture(scope="module")
def recorded(chromium, mlflow_server, tmp_path_factory) -> Iterator[Recorded]:
    """A version, a model and a failed quality gate, recorded in an MLflow server."""
    home = tmp_path_factory.mktemp("auditor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VECAP_HOME", str(home))
        patch.setenv("VECAP_MLFLOW_URI", mlflow_server)
        yield record(home, mlflow_server)


def record(home: Path, url: str) -> Recorded:
    config = configure(home, arms="[vecap]", epochs=1)
    write_evaluation_set(config)
    version = publish_version(config, [Texts() for _ in range(16)])
    run("train", config, version)
    run("evaluate", config, version)
    lineage.record_clip(config, version, {"airflow.dag_id": "vecap_clip", "airflow.url": "http://127.0.0.1:1/dags/x"})
    quality = load_stage("quality", config, version)
    quality.store.put(f"{quality.folder}/report/index.html", b"<h1>Crawl of 2026-01-01</h1>")
    failed_report = lineage.record_gate(config, version, GATE_MESSAGE)
    return Recorded(url, load_stage("crawl", config, version).manifest(), failed_report)


def open_link(context: BrowserContext, page: Page, link: str) -> Page:
    """Click on *link* in a description, which MLflow opens in a new page."""
    with context.expect_page() as opened:
        page.get_by_role("link", name=link, exact=True).first.click()
    return opened.value


def open_model(context: BrowserContext, url: str) -> Page:
    """Navigate from MLflow's start page to the model's page."""
    page = context.new_page()
    page.goto(url)
    page.get_by_role("button", name="Model training", exact=True).click()
    page.get_by_role("link", name="vecap/demo/clip").first.click()
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("link", name="demo-2026-01-01-vecap-0").first.click()
    expect(page.get_by_text("CLIP model of the arm")).to_be_visible()
    return page


def test_links_lead_from_a_model_to_the_crawl_files(recorded, browser, tmp_path):
    page = open_model(browser, recorded.url)
    page.screenshot(path=tmp_path / "1-model.png")

    version = open_link(browser, page, "demo/2026-01-01")
    expect(version.get_by_text("Dataset version demo/2026-01-01")).to_be_visible()
    version.screenshot(path=tmp_path / "2-version.png")

    files = open_link(browser, version, "1 crawl file, 21 bytes")
    (source,) = [item for item in recorded.crawl.inputs if item.kind == "source"]
    expect(files.get_by_text(source.digest)).to_be_visible()
    expect(files.get_by_text(source.name)).to_be_visible()
    expect(files.get_by_text("candidates.json")).to_be_visible()
    files.screenshot(path=tmp_path / "3-crawl-files.png")

    files.get_by_role("link", name="Models trained on it").click()
    expect(files.get_by_role("link", name="2026-01-01 arms")).to_be_visible()


def test_the_dataset_of_a_model_run_links_to_its_version(recorded, browser, tmp_path):
    page = open_model(browser, recorded.url)
    page.get_by_role("link", name="2026-01-01 vecap-0").first.click()
    expect(page.get_by_text("Parameters (")).to_be_visible()
    page.get_by_text("demo/2026-01-01").last.click()
    with browser.expect_page() as opened:
        page.get_by_role("button", name="Open dataset").click()
    expect(opened.value.get_by_text("Dataset version demo/2026-01-01")).to_be_visible()


def test_a_failed_quality_gate_shows_its_report(recorded, browser, tmp_path):
    page = browser.new_page()
    page.goto(f"{recorded.url}/{recorded.failed_report}")
    expect(page.frame_locator("iframe").get_by_text("Crawl of 2026-01-01")).to_be_visible()
    page.screenshot(path=tmp_path / "4-report.png")
    page.get_by_role("tab", name="Overview").click()
    expect(page.get_by_text(GATE_MESSAGE)).to_be_visible()
    page.screenshot(path=tmp_path / "5-gate.png")
