"""The pages of versions: results, performance, progress, failures, charts, downloads, and what a request reads."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from vecap_airflow.pages import downloads, status, trends
from vecap_airflow.pages.trends import Value, VersionTrends

from tests.old_versions import MODELS, VERSIONS, unpack
from tests.pages_app import open_pages
from vecap_tasks.core import manifest, stage_records
from vecap_tasks.core.samples import Filter, Samples
from vecap_tasks.core.stage_records import StageFailure, StageProgress, record_plan, recorded_failure
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version, read_version
from vecap_tasks.errors import VecapError

FIRST, SECOND, REVISION = VERSIONS
LOG = "https://airflow.example/dags/vecap_dataset/runs/1/tasks/rewrite.run?try_number=2"


@dataclass(frozen=True)
class Site:
    """The pages over the versions of release 0.1.0 in *store*."""

    client: TestClient
    store: Store

    def html(self, url: str, status: int = 200) -> str:
        answer = self.client.get(f"/vecap/{url}")
        assert answer.status_code == status, answer.text
        return answer.text

    def text(self, url: str, status: int = 200) -> str:
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", self.html(url, status)))

    def add(self, name: str, *stages: str) -> str:
        """Register the version *name* with *stages* of the second version; return the folder of its stage rewrite."""
        body = json.loads(self.store.read(f"demo/{SECOND}/version.json"))
        self.store.put(f"demo/{name}/version.json", json.dumps(body | {"interval": name, "revision": 1}).encode())
        for stage in stages:
            for file in self.store.tree(f"demo/{SECOND}/{stage}"):
                self.store.copy(file.path, file.path.replace(SECOND, name, 1))
        return f"demo/{name}/rewrite"


@pytest.fixture
def site(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("VECAP_MODELS", str(MODELS))
    monkeypatch.setenv("VECAP_CONFIG", str(unpack(home)))
    with TestClient(open_pages(monkeypatch), raise_server_exceptions=False) as client:
        yield Site(client, Store(str(home / "store")))


def test_a_version_page_has_the_results_of_its_models_with_intervals(site: Site) -> None:
    text = site.text(f"versions/{FIRST}")
    assert "Models trained on this version" in text
    results = json.loads(site.store.read(f"demo/{FIRST}/evaluate/43442fd02b1d/results.json"))
    (arm,) = results["arms"]
    for key in ("image_to_text_1", "text_to_image_1", "zero_shot_top1"):
        low, high = arm["intervals"][key]
        assert f"{100 * arm['mean'][key]:.1f} % {100 * low:.1f}–{100 * high:.1f}" in text
    assert "with 95 % intervals by bootstrap" in text
    speeds = [
        json.loads(line)["samples_per_second"]
        for line in site.store.read(f"demo/{FIRST}/train/ba506b1166e2/vecap-0/throughput.jsonl").splitlines()
    ]
    assert f" {sum(speeds) / len(speeds):.0f} vecap-0" in text
    assert f'href="/vecap/lineage?name={FIRST}%2Fvecap-0"' in site.html(f"versions/{FIRST}")
    assert "Models trained on this version" not in site.text(f"versions/{SECOND}")


def test_a_version_page_has_time_throughput_tokens_and_size_of_its_stages(site: Site) -> None:
    text = site.text(f"versions/{SECOND}")
    assert re.search(r"rewrite 2026-11-29 07:10 – 9.3 s 29 rows 3.1 per worker 33.8 kB –", text)
    assert re.search(r"VLM \(VeC\) 23 6 67 2,323 247 718 –", text), "captions, reused, captions/s, tokens"
    assert re.search(r"LLM \(VeCap\) 17 3 23 705 228 308 –", text)
    assert f"crawl from {SECOND}" in site.text(f"versions/{REVISION}")
    text = site.text(f"versions/{FIRST}")
    assert re.search(r"train 2026-11-29 07:09 – 5.1 s 1 model –", text)


def give_receipts(site: Site, folder: str, *ages: float) -> None:
    """Write a receipt for each of *ages*, in seconds before now."""
    for number, age in enumerate(ages):
        name = f"{folder}/_shards/{number:05d}.json"
        site.store.put(name, b"{}")
        os.utime(site.store.path(name), (time.time() - age,) * 2)


def start(site: Site, folder: str, shards: int, ago: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record that a run with *shards* shards started *ago* seconds ago."""
    with monkeypatch.context() as patch:
        now = time.time()
        patch.setattr(stage_records.time, "time", lambda: now - ago)
        names = [f"{number:05d}" for number in range(shards)]
        record_plan(site.store, folder, names, names)


def test_a_running_version_shows_its_progress(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site.add("2026-01-05", "crawl", "quality")
    assert "Stage rewrite: not started. To resume, run the interval again." in site.text("versions/2026-01-05")
    assert "waits for rewrite" in site.text("versions")
    start(site, folder, 8, 1_200, monkeypatch)
    assert "running, 0 of 8 shards, no estimate yet" in site.text("versions/2026-01-05")
    give_receipts(site, folder, 600, 60)
    text = site.text("versions/2026-01-05")
    assert re.search(r"Stage rewrite: running, 2 of 8 shards, about 6\d min left", text)
    assert 'aria-label="Stage rewrite: 25 % finished"' in site.html("versions/2026-01-05")
    assert "Error" not in text
    assert re.search(r"2026-01-05 rewrite running 2 of 8 shards, about 6\d min left", site.text("versions"))


def test_a_version_whose_run_stopped_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site.add("2026-01-05", "crawl", "quality")
    start(site, folder, 8, 10_000, monkeypatch)
    give_receipts(site, folder, 9_000, 8_940)
    text = site.text("versions/2026-01-05")
    assert "Stage rewrite: running" in text, "5,000 s per shard so far: two hours are not long"
    give_receipts(site, folder, *[8_940] * 6)
    text = site.text("versions/2026-01-05")
    assert re.search(r"6 of 8 shards, nothing finished for 2 h (29|3\d) min. The run may have stopped.", text)
    assert "rewrite idle" in site.text("versions")


def test_a_failed_version_shows_the_error_and_the_log(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site.add("2026-01-05", "crawl", "quality")
    start(site, folder, 8, 100, monkeypatch)
    give_receipts(site, folder, 50)
    with pytest.raises(VecapError), recorded_failure(site.store, folder, LOG):
        raise VecapError("no worker <b>answers</b>; start workers")
    page = site.html("versions/2026-01-05")
    assert "no worker &lt;b&gt;answers&lt;/b&gt;; start workers" in page
    assert f'<a href="{LOG}" target="_blank">Log of the Airflow task</a>' in page
    assert "Stage rewrite: failed , 1 of 8 shards finished" in site.text("versions/2026-01-05")
    assert "rewrite failed" in site.text("versions")
    start(site, folder, 8, -1, monkeypatch)
    assert "An earlier run failed" in site.text("versions/2026-01-05")
    assert "rewrite running" in site.text("versions")


@pytest.mark.parametrize("url", ["javascript:alert(1)", "", "data:text/html,x"])
def test_a_log_is_linked_only_by_a_web_url(url: str) -> None:
    progress = StageProgress(1, 0, 0.0, None, None, StageFailure("x", 1.0, url), 2.0)
    assert status.Status("failed", "crawl", progress).log_url == ""


def test_an_unfinished_training_shows_its_progress(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"demo/{SECOND}/train/0123456789ab"
    start(site, folder, 4, 100, monkeypatch)
    give_receipts(site, folder, 50)
    text = site.text(f"versions/{SECOND}")
    assert re.search(r"Training: running, 1 of 4 models, about \d+ min( \d+ s)? left", text)
    with pytest.raises(VecapError), recorded_failure(site.store, folder, LOG):
        raise VecapError("out of memory")
    text = site.text(f"versions/{SECOND}")
    assert "Training: failed , 1 of 4 models finished" in text
    assert "out of memory" in text


def test_the_list_has_charts_with_their_numbers(site: Site) -> None:
    page = site.html("versions")
    titles = re.findall(r"<figcaption><h3>(.*?)</h3>", page)
    assert titles == ["Acceptance share", "Drift"], "release 0.1.0 recorded no lengths and the demo has no prices"
    for name in re.findall(r'aria-labelledby="(\S+)"', page):
        assert page.count(f'id="{name}"') == 1
    text = site.text("versions")
    assert "Numbers of the charts" in text
    counters = [
        {stage: manifest.read_manifest(site.store, f"demo/{name}/{stage}").counters for stage in ("crawl", "quality")}
        for name in VERSIONS
    ]
    shares = [100 * each["quality"]["accepted"] / each["crawl"]["candidates"] for each in counters]
    for name, share in zip(VERSIONS, shares, strict=True):
        assert re.search(rf"{name} {re.escape(f'{share:.3g}')} % ", text)
    assert "<script" not in page.partition("</head>")[2]


def points(chart: trends.Chart) -> list[list[tuple[float, float]]]:
    return [[(point.x, point.y) for point in line.points] for line in chart.lines]


def test_charts_are_drawn_to_scale() -> None:
    found = [
        VersionTrends("2026-01-01", 50.0, cost=None, recall={"a": Value(10, 5, 20)}, recall_title="I2T R@1"),
        VersionTrends("2026-01-02", None, cost=0.004, recall={"a": Value(20, 10, 30), "b": Value(5)}),
        VersionTrends("2026-01-03", 100.0, cost=0.002),
    ]
    accepted, cost, recall = trends.charts(found)
    ((first, last),) = points(accepted)
    assert accepted.lines[0].path.count("M") == 2, "a gap where a version has no value"
    assert last[0] > first[0]
    bottom = trends.HEIGHT - 24
    assert (bottom - first[1]) * 2 == pytest.approx(bottom - last[1])
    assert [tick.label for tick in accepted.y_ticks] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert [tick.label for tick in cost.y_ticks] == ["0", "0.001", "0.002", "0.003", "0.004"]
    assert recall.title == "I2T R@1"
    assert [line.name for line in recall.lines] == ["a", "b"]
    one = recall.lines[0].points[0]
    assert one.low is not None
    assert one.high is not None
    assert one.low > one.y > one.high, "SVG counts downwards"
    assert one.label == "2026-01-01, a: 10 % (5 to 20)"
    assert recall.lines[1].points[0].low is None
    assert recall.lines[1].points[0].x != recall.lines[0].points[1].x, "intervals do not cover each other"


def test_a_chart_needs_two_versions_with_a_value() -> None:
    assert trends.charts([VersionTrends("2026-01-01", 50.0), VersionTrends("2026-01-02", None)]) == []
    assert trends.charts([]) == []
    (flat,) = trends.charts([VersionTrends("a", 0.0), VersionTrends("b", 0.0)])
    assert [point.y for point in flat.lines[0].points] == [flat.y_ticks[0].position] * 2


def table(body: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(body.decode(), newline="")))


@pytest.mark.parametrize("query", ["", "?reason=vecap_from%3Dllm", "?text=zebra"])
def test_samples_are_downloaded_with_the_filters_of_the_page(site: Site, query: str) -> None:
    csv_file, parquet = (
        site.client.get(f"/vecap/versions/{SECOND}/samples.{kind}{query}") for kind in ("csv", "parquet")
    )
    assert csv_file.headers["content-disposition"] == f'attachment; filename="demo-{SECOND}-samples.csv"'
    assert csv_file.headers["content-type"] == "text/csv; charset=utf-8"
    assert parquet.headers["content-disposition"] == f'attachment; filename="demo-{SECOND}-samples.parquet"'
    rows = pq.read_table(io.BytesIO(parquet.content)).to_pylist()
    filters = Filter(reason="vecap_from=llm" if "llm" in query else "", text="zebra" if "zebra" in query else "")
    shown = Samples(site.store, read_version(site.store, "demo", SECOND)).page(filters, 0, 1_000)
    assert len(rows) == shown.total == {"": 29, "?reason=vecap_from%3Dllm": 20, "?text=zebra": 0}[query]
    assert [row["key"] for row in rows] == [row.key for row in shown.rows]
    assert [row["vecap"] for row in rows] == [row.vecap for row in shown.rows]
    assert [(row["key"], row["vecap"]) for row in table(csv_file.content)] == [(r["key"], r["vecap"]) for r in rows]
    assert csv_file.content.startswith(b"key,uid,url,")
    link = f'href="/vecap/versions/{SECOND}/samples.csv{query}"'
    assert (link in site.html(f"versions/{SECOND}/samples{query}")) == bool(rows)


def test_rejected_rows_are_downloaded(site: Site) -> None:
    url = f"/vecap/versions/{SECOND}/quarantine"
    assert len(table(site.client.get(f"{url}.csv").content)) == 11
    answer = site.client.get(f"{url}.csv?reason=flat")
    assert answer.headers["content-disposition"] == f'attachment; filename="demo-{SECOND}-quarantine-flat.csv"'
    assert [row["reasons"] for row in table(answer.content)] == ["too_small flat"] * 2
    rows = pq.read_table(io.BytesIO(site.client.get(f"{url}.parquet?reason=flat").content)).to_pylist()
    assert [row["reasons"] for row in rows] == [["too_small", "flat"]] * 2
    assert "tar" not in rows[0], "no path of the server"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("2030-01-01/samples.csv", 404), (f"{SECOND}/samples.xlsx", 422), (f"{SECOND}/samples.csv?reason=x%3Dy", 404),
        ("2026-01-05/quarantine.csv", 404), ("2026-01-05/samples.parquet", 404),
    ],
)  # fmt: skip
def test_an_invalid_download_is_an_error_page(site: Site, path: str, status: int) -> None:
    site.add("2026-01-05", "crawl")
    answer = site.client.get(f"/vecap/versions/{path}")
    assert answer.status_code == status
    assert "content-disposition" not in answer.headers


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1", "＝1"]
PLAIN = ["a = b", "red-blue", "1 + 1", "'quoted'", 'say "hi", twice', "two\nlines", ""]


def test_csv_cells_are_no_formulas() -> None:
    schema = pa.schema([("text", pa.string()), ("words", pa.list_(pa.string())), ("size", pa.int32())])
    texts = [*FORMULAS, *PLAIN]
    batch = pa.record_batch([texts, [[text, "x"] for text in texts], [-1] * len(texts)], schema=schema)
    rows = table(b"".join(downloads.stream("csv", iter([batch]), schema)))
    assert [row["text"] for row in rows] == [*(f"'{text}" for text in FORMULAS), *PLAIN]
    assert all(row["words"].startswith("'") for row in rows[: len(FORMULAS)])
    assert {row["size"] for row in rows} == {"-1"}, "a number is no text"
    parquet = b"".join(downloads.stream("parquet", iter([batch]), schema))
    assert pq.read_table(io.BytesIO(parquet))["text"].to_pylist() == texts


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_download_holds_few_batches(kind: str) -> None:
    taken = 0
    schema = pa.schema([("number", pa.int32())])

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal taken
        for number in range(50):
            taken += 1
            yield pa.record_batch([list(range(10_000 * number, 10_000 * (number + 1)))], schema=schema)

    chunks, most = [], 0
    before = 0
    for chunk in downloads.stream(kind, batches(), schema):
        most, before = max(most, taken - before), taken
        chunks.append(chunk)
    assert most <= 2
    assert len(chunks) > 20
    body = b"".join(chunks)
    numbers = (
        [int(row["number"]) for row in table(body)]
        if kind == "csv"
        else pq.read_table(io.BytesIO(body))["number"].to_pylist()
    )
    assert numbers == list(range(500_000))


def test_file_names_have_no_special_characters() -> None:
    name = downloads.file_name("my data", "2026-01-01T05:00", 'a"b/../c', suffix="csv")
    assert name == "my_data-2026-01-01T05_00-a_b_.._c.csv"


def test_the_effect_of_a_release_is_shown_before_it_is_made(site: Site) -> None:
    url = f"versions/{SECOND}/quarantine"
    text = site.text(f"{url}?reason=too_small")
    assert "This release adds 0 rows to the next revision: all 2 are also rejected for flat." in text
    assert "Release anyway" in text
    assert "This release adds 1 row to the next revision" in site.text(f"{url}?reason=aspect")
    assert "This release" not in site.text(f"{url}?reason=not_downloaded")
    form = {"reason": "too_small", "note": "icons"}
    answer = site.client.post(f"/vecap/{url}", data=form)
    assert answer.status_code == 404
    assert "nothing was released" in answer.text
    assert "Releases of this interval" not in site.text(url)
    assert site.client.post(f"/vecap/{url}", data=form | {"anyway": "1"}).status_code == 200
    assert "This release adds 2 rows to the next revision" in site.text(f"{url}?reason=flat")
    uid = re.findall(r'name="uid" value="(\w+)"', site.html(f"{url}?reason=aspect"))[0]
    assert site.client.post(f"/vecap/{url}", data={"uid": uid, "note": "fine"}).status_code == 200
    assert "released from the next run on" in site.text(f"{url}?reason=aspect")


def test_pages_read_no_manifest_twice_and_hash_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    key = re.findall(r"/images/(\d+)", site.html(f"versions/{SECOND}/samples"))[0]
    urls = [
        "versions", f"versions/{SECOND}", f"versions/{SECOND}/samples", f"versions/{SECOND}/quarantine", "quarantine",
        "lineage", f"lineage?name={SECOND}", f"lineage?name={SECOND}&check=1", f"versions/{SECOND}/images/{key}",
    ]  # fmt: skip
    for url in urls:
        assert site.client.get(f"/vecap/{url}").status_code == 200

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a page reads what grows with the number of rows")

    monkeypatch.setattr(manifest.Manifest, "from_json", fail)
    monkeypatch.setattr(Store, "sha256", fail)
    monkeypatch.setattr(Store, "tree", lambda self, name="": [] if name.endswith("validations") else fail())
    for url in urls:
        assert site.client.get(f"/vecap/{url}").status_code == 200, url


def test_the_lineage_page_names_few_of_many_sources(site: Site) -> None:
    folder = f"demo/{SECOND}/crawl"
    found = manifest.read_manifest(site.store, folder)
    sources = tuple(manifest.Input("source", f"/data/{number:05d}.warc.gz", "0" * 64) for number in range(5_000))
    changed = {**{name: getattr(found, name) for name in found.__dataclass_fields__}, "inputs": sources}
    site.store.put(f"{folder}/manifest.json", manifest.Manifest(**changed).to_json())
    text = site.text(f"lineage?name={SECOND}")
    assert "and 4,990 more" in text
    assert text.count(".warc.gz") < 50


def test_a_version_with_many_samples_is_compared_on_the_command_line(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vecap_airflow.pages import repository

    monkeypatch.setattr(repository, "_MAX_DIFF_SAMPLES", 10)
    assert f"more than 10 samples to compare; run `vecap diff {FIRST} {SECOND}`" in site.text(f"versions/{SECOND}")


def test_the_only_script_is_allowed_by_its_hash_and_has_no_data(site: Site) -> None:
    answer = site.client.get(f"/vecap/versions/{SECOND}/samples")
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert script == re.findall(r"<script>(.*?)</script>", site.html("quarantine"), re.DOTALL)[0]


def test_the_status_of_a_version_without_captions_is_complete(site: Site) -> None:
    site.add("2026-01-05", "crawl", "quality")
    body = json.loads(site.store.read("demo/2026-01-05/version.json"))
    del body["config"]["rewrite"], body["config"]["assemble"]
    site.store.put("demo/2026-01-05/version.json", json.dumps(body).encode())
    assert "no captions" in site.text("versions/2026-01-05")
    assert "not started" not in site.text("versions/2026-01-05")
    found = {"crawl": stage_records.read_summary(site.store, "demo/2026-01-05/crawl"), "quality": None}
    assert status.version_status(site.store, Version("demo", "2026-01-05", 1, ""), found, 0.0).stage == "quality"
