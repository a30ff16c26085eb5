"""Canaries: an email address and a telephone number in AltTexts and generated texts reach no published file."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from vecap_airflow.pages import repository

from tests.crawler import Response, crawl
from tests.pages_app import open_pages
from tests.quality.factories import INTERVAL, Row, configure, give_crawl, run, stage, use_given
from vecap_tasks import lineage
from vecap_tasks.config import Config
from vecap_tasks.core import stage as core_stage
from vecap_tasks.core.private_data import HIDDEN
from vecap_tasks.core.version import register
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText
from vecap_tasks.rewrite.stage import Rewrite

PHONE, EMAIL, VEC_EMAIL = "0113 496 0472", "zephyrine.canary@example.com", "heron.canary@example.org"
CANARIES = (PHONE.encode(), b"zephyrine.canary", b"heron.canary")
ROWS = [
    Row(caption="A beagle at the fair"),
    Row(caption=f"Plumber's van, call {PHONE}"),
    Row(caption=f"Write to {EMAIL} for prints"),
    Row(caption=EMAIL.replace("@", "&#64;")),
    Row(caption=f'<a href="mailto:{EMAIL}">Bakery at dawn</a>'),
    Row(caption=f"{EMAIL} {EMAIL} {EMAIL} {EMAIL}"),  # the rule `repetition` would match too
    Row(caption=f"A tiny van, {PHONE}", original_width=20, original_height=20),  # rejected
    Row(caption="A heron in the reeds"),  # the VLM reads a number from the picture
    Row(caption="A mill by the pond"),  # the LLM adds an address
    Row(caption="Buns, see www.bakery.example/buns"),  # no VeC, and the AltText is no caption
    Row(caption="A lighthouse on a cliff"),  # no VeC: the AltText is the caption
    Row(caption=f"Prints: mailto:{EMAIL.replace('@', '%40')}?subject=Prints"),
    *(Row(caption=f"Tulip number {number}") for number in range(6)),
]


class Canned(Rewrite):
    """Models without weights that return texts with canaries."""

    decode_threads = 1

    def describe_servers(self, results: object, work: Path) -> tuple[str, ...]:
        return ()

    def _vlm(self) -> Canned:
        return self

    def _llm(self, prompt: object) -> Canned:
        return self

    def describe(self, requests: Iterator, on_finished: Callable) -> list[GeneratedText]:
        texts = {7: f"A heron under a sign, {PHONE}, and {VEC_EMAIL}", 9: "", 10: ""}
        numbers = (int(item.row.uid, 16) for item, _ in requests)
        return [GeneratedText(texts.get(number, "A picture on a table"), 5, True, 5) for number in numbers]

    def fuse(self, requests: list, on_finished: Callable) -> list[GeneratedText]:
        added = f" by {VEC_EMAIL}"
        return [
            GeneratedText(f"{alttext}, {vec.lower()}{added if 'mill' in alttext else ''}", 9, True, 9)
            for (alttext, vec), _ in requests
        ]


@pytest.fixture
def config(home: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A version up to assemble, and its records in MLflow."""
    use_given(monkeypatch)
    monkeypatch.setitem(core_stage.STAGES, "rewrite", f"{__name__}:Canned")
    server = {"backend": "openai", "server": {"urls": ["http://none.example/v1"], "revision": "1"}}
    models = {
        "vlm": {"model": "vlm", "prompt": "describe", **server},
        "llm": {"model": "llm", "prompt": "fuse", **server},
    }
    config = configure(home, rewrite=models)
    give_crawl(home, ROWS)
    register(stage("crawl", config).store, config.dataset, INTERVAL, "", {})
    for name in ("crawl", "quality", "rewrite", "assemble"):
        run(name, config)
    version = stage("crawl", config).version
    lineage.record_gate(config, version)
    lineage.record_version(config, version)
    return config


def found_in(data: bytes) -> list[bytes]:
    return [canary for canary in CANARIES if canary in data]


def test_no_published_file_has_a_canary(config: Config, home: Path) -> None:
    folder = Path(stage("crawl", config).store.path(stage("crawl", config).version.folder))
    files = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != "crawl"]
    files += [path for path in home.glob("mlflow*/**/*") if path.is_file()] + [*home.glob("mlflow.db*")]
    assert {".parquet", ".tar", ".html", ".md", ".json", ".db", ".png"} <= {path.suffix for path in files}
    for path in files:
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data = repr(pq.read_table(path).to_pylist()).encode()
        assert found_in(data) == [], path


def test_rows_with_private_texts_keep_their_image(config: Config) -> None:
    rewrite, assemble = stage("rewrite", config), stage("assemble", config)
    rows = {
        int(row["uid"], 16): row
        for name in rewrite.manifest().files_ending(".parquet")
        for row in pq.read_table(rewrite.store.path(name)).to_pylist()
    }
    for number in (1, 2, 3, 4, 5, 11):
        assert (rows[number]["alttext"], rows[number]["vecap_from"]) == (None, "vec"), ROWS[number]
    assert (rows[7]["vec"], rows[7]["vec_problem"]) == (None, "private_data")
    assert (rows[7]["vecap"], rows[7]["vecap_from"]) == ("A heron in the reeds", "alttext")
    assert (rows[8]["vecap_from"], rows[8]["vecap_problem"]) == ("vec", "private_data")
    assert (rows[9]["vecap"], rows[9]["vecap_from"]) == (None, "none")
    assert rows[10]["vecap"] == "A lighthouse on a cliff"
    assert rewrite.manifest().counters["refused_alttext"] == 1
    samples = {
        int(row["uid"], 16): row
        for name in assemble.manifest().files_ending(".parquet")
        for row in pq.read_table(assemble.store.path(name)).to_pylist()
    }
    assert {number for number, row in samples.items() if row["alttext"] == ""} == {1, 2, 3, 4, 5, 11}
    assert samples.keys() == set(range(len(ROWS))) - {6, 9}


def test_no_page_shows_a_canary(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = repository.Repository(config)
    monkeypatch.setattr(repository, "open_repository", lambda _: opened)

    with TestClient(open_pages(monkeypatch)) as client:

        def get(url: str) -> Response:
            answer = client.get(url)
            return Response(answer.status_code, answer.content)

        found = crawl(get, "/vecap/versions")
    name = stage("crawl", config).version.name
    assert {f"/vecap/versions/{name}/{part}" for part in ("samples", "quarantine", "report/index.html")} <= found.keys()
    files = [
        f"/vecap/versions/{name}/{part}.{kind}" for part in ("samples", "quarantine") for kind in ("csv", "parquet")
    ]
    assert set(files) <= found.keys()
    parquet = {url: repr(pq.read_table(io.BytesIO(found[url].body)).to_pylist()).encode() for url in files[1::2]}
    shown = {url: parquet.get(url, answer.body) for url, answer in found.items()}
    assert {url: found_in(body) for url, body in shown.items() if found_in(body)} == {}
    for part in ("samples", "quarantine", "report/index.html"):
        assert HIDDEN.encode() in found[f"/vecap/versions/{name}/{part}"].body
