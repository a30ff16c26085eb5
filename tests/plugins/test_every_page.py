"""All pages and links, for all kinds of versions, in this process. `test_pages.py` uses a real API server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from inspect import getmembers
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from jinja2 import nodes
from vecap_airflow.pages import graph, link_targets, performance, rendering, repository, status, training, trends

from tests.crawler import Response, crawl
from tests.old_versions import MODELS, VERSIONS, unpack
from tests.pages_app import open_pages
from vecap_tasks.core import diff, manifest, samples, stage_records, version
from vecap_tasks.lineage import tree
from vecap_tasks.quality import gate, quarantine, report

MODEL = "2026-01-01/vecap-0"
FIRST, SECOND, REVISION = VERSIONS


@dataclass(frozen=True)
class Site:
    """The pages at `/vecap`, over the versions of `tests/data/versions` in *store*."""

    client: TestClient
    store: Path

    def get(self, url: str) -> Response:
        answer = self.client.get(url)
        return Response(answer.status_code, answer.content)

    def text(self, url: str, status: int = 200) -> str:
        answer = self.get(url)
        assert answer.status == status, answer.body
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", answer.body.decode()))

    def add(self, name: str, *stages: str) -> Path:
        """Register the version *name* with *stages* of the second version; return its folder."""
        folder = self.store / name
        folder.mkdir()
        body = json.loads((self.store / SECOND / "version.json").read_text())
        (folder / "version.json").write_text(json.dumps(body | {"interval": name}))
        for stage in stages:
            shutil.copytree(self.store / SECOND / stage, folder / stage)
        return folder


@pytest.fixture
def site(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("VECAP_MODELS", str(MODELS))
    monkeypatch.setenv("VECAP_CONFIG", str(unpack(home)))
    with TestClient(open_pages(monkeypatch), raise_server_exceptions=False) as client:
        yield Site(client, home / "store" / "demo")


def failures(found: dict[str, Response]) -> dict[str, int]:
    """Return the failed URLs of *found*, except the missing icon of Great Expectations' pages."""
    return {
        url: answer.status for url, answer in found.items() if answer.status != 200 and not url.endswith("/favicon.ico")
    }


def add_unpublished(site: Site) -> None:
    site.add("2026-01-03")
    site.add("2026-01-04", "crawl")
    site.add("2026-01-05", "crawl", "quality", "rewrite")


def add_failed(site: Site) -> None:
    """Add a version that failed the quality gate: it has a report but no quality manifest."""
    folder = site.add("2026-01-06", "crawl", "quality") / "quality"
    (folder / "manifest.json").unlink()
    findings = json.loads((folder / "report" / "findings.json").read_text())
    (folder / "report" / "findings.json").write_text(json.dumps(findings | {"stops": ["too few rows"]}))


def release_rows(site: Site) -> None:
    page = site.get(f"/vecap/versions/{SECOND}/quarantine").body.decode()
    uid = re.findall(r'name="uid" value="(\w+)"', page)[0]
    form = {"uid": uid, "note": "logos are allowed"}
    assert site.client.post(f"/vecap/versions/{SECOND}/quarantine", data=form).status_code == 200


def test_every_link_of_every_page_works(site: Site) -> None:
    add_unpublished(site)
    add_failed(site)
    release_rows(site)
    found = crawl(site.get, "/vecap/versions", f"/vecap/lineage?name={MODEL}")
    assert failures(found) == {}
    for name in VERSIONS:
        url = f"/vecap/versions/{name}"
        subpages = ("samples", "quarantine", "sources", "report/index.html")
        assert {url, *(f"{url}/{page}" for page in subpages)} <= found.keys()
        assert f"/vecap/lineage?name={name}" in found
        for folder in ("images", "report/data_docs/validations"):
            assert any(link.startswith(f"{url}/{folder}/") for link in found)
    assert any(url.startswith("/vecap/compare/") for url in found)
    assert b"Lineage of models:/demo-clip@champion" in found["/vecap/champion"].body
    assert b"too few rows" in found["/vecap/versions/2026-01-06"].body
    assert "/vecap/versions/2026-01-06/quarantine" in found


def test_a_version_page_shows_changes_since_the_previous_version(site: Site) -> None:
    second, revision = (site.text(f"/vecap/versions/{name}") for name in (SECOND, REVISION))
    assert f"Changes since {FIRST}" in second
    assert "0 added, 0 removed, 29 retained; 0 VeC and 0 VeCap changed in retained samples" in revision
    assert re.search(r"Quality gate: passed, \d+ warnings?", revision)
    assert "rewrite.llm.max_new_tokens" in revision
    for title in ("AltText", "VeC", "VeCap"):
        assert re.search(rf"{title} ?mean [\d.]+ → [\d.]+, median [\d.]+ → [\d.]+ characters", second)


def test_a_version_page_links_to_mlflow_if_a_ui_is_configured(site: Site, home: Path) -> None:
    url = f"/vecap/versions/{SECOND}"
    assert f"{url}/recorded/mlflow" not in site.get(url).links
    assert "no MLflow UI is configured" in site.text(f"{url}/recorded/mlflow", 404)
    with (home / "config.yaml").open("a") as config:
        config.write("  ui_url: https://mlflow.example\n")  # the file ends with the section `mlflow`
    assert f"{url}/recorded/mlflow" in site.get(url).links
    answer = site.client.get(f"{url}/recorded/mlflow", follow_redirects=False)
    assert answer.headers["location"].startswith("https://mlflow.example/#/experiments/")


def damage(file: Path) -> None:
    file.write_bytes(b"{")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("assemble/manifest.json", damage),
        ("assemble/00000.parquet", damage),
        ("assemble/00000.parquet", Path.unlink),
        ("quality/manifest.json", damage),
    ],
)
def test_a_version_is_shown_if_the_previous_version_is_corrupt(
    site: Site, file: str, change: Callable[[Path], None]
) -> None:
    change(site.store / FIRST / file)
    assert f"cannot compare with {FIRST}: " in site.text(f"/vecap/versions/{SECOND}")
    for start in ("versions", "quarantine", "lineage"):
        assert SECOND in site.text(f"/vecap/{start}")


def test_a_corrupt_version_is_reported(site: Site) -> None:
    (site.store / FIRST / "rewrite" / "00000.parquet").unlink()
    damage(site.store / FIRST / "quality" / "manifest.json")
    damage(site.store / SECOND / "quality" / "report" / "findings.json")
    for name, page, file in (
        (FIRST, "", "quality/manifest.json"),
        (FIRST, "/samples", "rewrite/00000.parquet"),
        (FIRST, "/quarantine", "quality/manifest.json"),
        (SECOND, "", "quality/report/findings.json"),
    ):
        text = site.text(f"/vecap/versions/{name}{page}", 503)
        assert "Cannot read the dataset" in text
        assert f"{name}/{file}" in text
        assert "vecap verify --all" in text
    assert f"{FIRST}/quality/manifest.json" in site.text("/vecap/versions")


def test_templates_use_only_existing_attributes() -> None:
    """Finds renamed attributes in template branches that other tests do not render."""
    modules = (
        *(
            diff,
            gate,
            graph,
            link_targets,
            manifest,
            performance,
            quarantine,
            report,
            repository,
            samples,
            stage_records,
            status,
        ),
        *(training, tree, trends, version),
    )
    dataclasses = {kind for module in modules for _, kind in getmembers(module, is_dataclass)}
    known = {name for kind in (*dataclasses, samples.Samples, str, dict) for name in dir(kind)}
    known |= {field.name for kind in dataclasses for field in fields(kind)}
    known |= {"first", "index0", "previtem"}  # attributes of `loop`
    templates = rendering.templates()
    assert templates.list_templates()
    for name in templates.list_templates():
        macros = templates.parse(templates.loader.get_source(templates, name)[0]).find_all(nodes.Macro)
        known |= {macro.name for macro in macros}
    for name in templates.list_templates():
        source = templates.loader.get_source(templates, name)[0]
        used = {node.attr for node in templates.parse(source).find_all(nodes.Getattr)}
        assert used <= known, name
