"""An auditor with MLflow's UI alone, in a real browser: from a model to the files of the crawl by clicking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.train.factories import Texts, configure, give_evaluation, give_version, run
from vecap_tasks import lineage
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.stage import load_stage

pytestmark = [pytest.mark.exhaustive, pytest.mark.services]

REFUSAL = "too few rows: 3 of <b>16</b> [accepted]"


@dataclass(frozen=True)
class Recorded:
    """What stands in MLflow at `url`."""

    url: str
    crawl: Manifest
    refused: str  # the link to a refused crawl's report


@pytest.fixture(scope="module")
def recorded(chromium, mlflow_server, tmp_path_factory) -> Iterator[Recorded]:
    """A version, a model and a refused crawl, recorded in an MLflow server as the services start it."""
    home = tmp_path_factory.mktemp("auditor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VECAP_HOME", str(home))
        patch.setenv("VECAP_MLFLOW_URI", mlflow_server)
        yield record(home, mlflow_server)


def record(home: Path, url: str) -> Recorded:
    config = configure(home, arms="[vecap]", epochs=1)
    give_evaluation(config)
    version = give_version(config, [Texts() for _ in range(16)])
    run("train", config, version)
    run("evaluate", config, version)
    lineage.record_clip(config, version, {"airflow.dag_id": "vecap_clip", "airflow.url": "http://127.0.0.1:1/dags/x"})
    quality = load_stage("quality", config, version)
    quality.store.put(f"{quality.folder}/report/index.html", b"<h1>Crawl of 2026-01-01</h1>")
    refused = lineage.record_gate(config, version, REFUSAL)
    return Recorded(url, load_stage("crawl", config, version).manifest(), refused)


def opens(context: BrowserContext, page: Page, link: str) -> Page:
    """Click on *link* of a description, which MLflow opens in a page of its own."""
    with context.expect_page() as opened:
        page.get_by_role("link", name=link, exact=True).first.click()
    return opened.value


def open_model(context: BrowserContext, url: str) -> Page:
    """Go to the model's page as somebody who knows no address but MLflow's."""
    page = context.new_page()
    page.goto(url)
    page.get_by_role("button", name="Model training", exact=True).click()
    page.get_by_role("link", name="vecap/demo/clip").first.click()
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("link", name="demo-2026-01-01-vecap-0").first.click()
    expect(page.get_by_text("CLIP model of the arm")).to_be_visible()
    return page


def test_from_a_model_to_the_crawl_by_clicking(recorded, browser, tmp_path):
    page = open_model(browser, recorded.url)
    page.screenshot(path=tmp_path / "1-model.png")

    version = opens(browser, page, "demo/2026-01-01")
    expect(version.get_by_text("Dataset version demo/2026-01-01")).to_be_visible()
    version.screenshot(path=tmp_path / "2-version.png")

    files = opens(browser, version, "1 crawl file, 21 bytes")
    (source,) = [item for item in recorded.crawl.inputs if item.kind == "source"]
    expect(files.get_by_text(source.digest)).to_be_visible()
    expect(files.get_by_text(source.name)).to_be_visible()
    expect(files.get_by_text("candidates.parquet")).to_be_visible()
    files.screenshot(path=tmp_path / "3-crawl-files.png")

    # And forward again: what was trained on it.
    files.get_by_role("link", name="Models trained on it").click()
    expect(files.get_by_role("link", name="2026-01-01 arms")).to_be_visible()


def test_from_the_run_of_a_training_by_the_dataset_that_it_names(recorded, browser, tmp_path):
    page = open_model(browser, recorded.url)
    page.get_by_role("link", name="2026-01-01 vecap-0").first.click()
    expect(page.get_by_text("Parameters (")).to_be_visible()
    page.get_by_text("demo/2026-01-01").last.click()
    with browser.expect_page() as opened:
        page.get_by_role("button", name="Open dataset").click()
    expect(opened.value.get_by_text("Dataset version demo/2026-01-01")).to_be_visible()


def test_a_refused_crawl_shows_its_report(recorded, browser, tmp_path):
    page = browser.new_page()
    page.goto(f"{recorded.url}/{recorded.refused}")
    expect(page.frame_locator("iframe").get_by_text("Crawl of 2026-01-01")).to_be_visible()
    page.screenshot(path=tmp_path / "4-report.png")
    page.get_by_role("tab", name="Overview").click()
    expect(page.get_by_text(REFUSAL)).to_be_visible()
    page.screenshot(path=tmp_path / "5-gate.png")
