"""Retries of failed rows on a server that recovers; successful rows are not requested again."""

import json

import pyarrow.parquet as pq
import pytest
import yaml

from tests.crawl.web import Answer, image
from vecap_tasks.cli.__main__ import main
from vecap_tasks.config import Config
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import check_files
from vecap_tasks.core.version import Version, list_versions, register
from vecap_tasks.crawl.previous_crawl import is_permanent, open_previous
from vecap_tasks.crawl.stage import Crawl
from vecap_tasks.errors import CorruptError, VecapError

PNG = {"Content-Type": "image/png"}
NAMES = ("red.png", "busy.png", "none.png", "text.png", "blue.png", "late.png", "shut.png", "green.png")


@pytest.fixture
def failing_web(web, tmp_path):
    """A URL list of eight images: two recover after failures, one is missing, two fail permanently."""
    for color in ("red", "blue", "green"):
        web.image(f"/{color}.png", color=color)
    web.answers |= {
        "/busy.png": Answer(image(color="yellow"), headers=PNG, first=(Answer(status=503),)),
        "/late.png": Answer(image(color="black"), headers=PNG, first=(Answer(status=429), Answer(status=429))),
        "/text.png": Answer(b"<html>", headers=PNG),
        "/robots.txt": Answer(b"User-agent: *\nDisallow: /shut"),
    }
    (tmp_path / "list.txt").write_text("".join(f"http://a.example/{name}\n" for name in NAMES))
    return web


@pytest.fixture
def configure_retry(failing_web, configure):
    def make(retry=None, fetch=None, **crawl_settings):
        source = {"kind": "urls", "paths": ["${VECAP_HOME}/list.txt"]}
        return configure(source, fetch, **({"shard_size": 3, "retry_failed": retry} | crawl_settings))

    return make


def run_crawl(config):
    """Register a version and crawl it, like the command line."""
    store = Store(config.resolve(config.root))
    open_previous(store, config, "2026-01-01")
    fingerprint = Crawl(config, Version(config.dataset, "2026-01-01", 0, "")).fingerprint
    version = register(store, config.dataset, "2026-01-01", fingerprint, {})
    stage = Crawl(config, version)
    assert stage.pending_preparations() == [] or config.crawl.retry_failed is None
    for shard in stage.plan():
        stage.run(shard)
    return stage, stage.commit()


def outcomes(stage, manifest):
    tables = [pq.read_table(stage.store.path(manifest.file(f"{shard:05d}.parquet"))) for shard in range(3)]
    return {row["url"].rpartition("/")[2]: row["error_message"] for table in tables for row in table.to_pylist()}


def test_only_temporary_failures_are_retried(failing_web, configure_retry):
    first, first_manifest = run_crawl(configure_retry())
    assert outcomes(first, first_manifest) == dict.fromkeys(NAMES) | {
        "busy.png": "http_503", "none.png": "http_404", "text.png": "not_an_image: html", "late.png": "http_429",
        "shut.png": "robots",
    }  # fmt: skip
    requests = failing_web.image_requests()
    second, second_manifest = run_crawl(configure_retry({"version": "2026-01-01"}))
    assert second.version.name == "2026-01-01-r2"
    assert failing_web.image_requests() - requests == {"a.example/busy.png": 1, "a.example/late.png": 1}
    assert outcomes(second, second_manifest) == outcomes(first, first_manifest) | {"busy.png": None}
    counts = second_manifest.counters
    assert (counts["retried"], counts["recovered"]) == (2, 1)
    assert counts["success"] == first_manifest.counters["success"] + counts["recovered"] == 4
    failed = counts["failed_to_download"] + counts["failed_to_resize"]
    assert counts["success"] + failed == counts["candidates"] == counts["images"] == 8
    assert [item for item in second_manifest.inputs if item.kind == "source"] == list(first_manifest.inputs)
    (earlier,) = (item for item in second_manifest.inputs if item.kind == "dataset")
    assert (earlier.name, earlier.digest) == ("2026-01-01/crawl", first_manifest.digest)
    assert check_files(first.store, first_manifest) == check_files(second.store, second_manifest) == []

    third, third_manifest = run_crawl(configure_retry({"version": "2026-01-01-r2"}))
    assert third.version.name == "2026-01-01-r3"
    assert outcomes(third, third_manifest)["late.png"] is None
    assert (
        third_manifest.counters["retried"],
        third_manifest.counters["recovered"],
        third_manifest.counters["success"],
    ) == (1, 1, 5)
    with pytest.raises(VecapError, match=r"no failed rows for any reason that may pass; its failures: http_404 \(1\)"):
        run_crawl(configure_retry({"version": "2026-01-01-r3"}))


def test_reused_shards_have_the_same_bytes(configure_retry):
    first_manifest = run_crawl(configure_retry())[1]
    second_manifest = run_crawl(configure_retry({"version": "2026-01-01"}))[1]
    old, new = (
        {entry.path: entry.sha256 for entry in manifest.files} for manifest in (first_manifest, second_manifest)
    )
    assert {path for path in old if old[path] == new[path]} == {
        "00001.parquet", "00001.tar", "00001_stats.json", "00002.parquet", "00002.tar", "00002_stats.json",
        "candidates.json", "duplicates.parquet",
    }  # fmt: skip


def test_shards_contain_the_images_of_their_rows(configure_retry):
    import io

    import webdataset
    from PIL import Image

    run_crawl(configure_retry())
    stage, manifest = run_crawl(configure_retry({"version": "2026-01-01"}))
    path = stage.store.path(manifest.file("00000.tar"))
    samples = list(webdataset.WebDataset(path, shardshuffle=False, empty_check=False))
    urls = [json.loads(sample["json"])["url"].rpartition("/")[2] for sample in samples]
    pixels = [Image.open(io.BytesIO(sample["jpg"])).convert("RGB").getpixel((5, 5)) for sample in samples]
    assert urls == ["red.png", "busy.png"]
    assert [tuple(value > 128 for value in pixel) for pixel in pixels] == [(True, False, False), (True, True, False)]


def test_reasons_to_retry_can_be_configured(failing_web, configure_retry):
    run_crawl(configure_retry())
    failing_web.image("/none.png", color="white")
    requests = failing_web.image_requests()
    stage, manifest = run_crawl(configure_retry({"version": "2026-01-01", "reasons": ["http_404"]}, {"deadline": 9}))
    assert failing_web.image_requests() - requests == {"a.example/none.png": 1}
    assert outcomes(stage, manifest)["none.png"] is None
    with pytest.raises(VecapError, match=r"for timeout; its failures: http_404 \(1\), http_429 \(1\), http_503"):
        run_crawl(configure_retry({"version": "2026-01-01", "reasons": ["timeout"]}))


def test_unusable_earlier_crawls_are_one_line_errors(configure_retry):
    with pytest.raises(VecapError, match="has no version 2026-01-01-r7"):
        run_crawl(configure_retry({"version": "2026-01-01-r7"}))
    with pytest.raises(VecapError, match="2026-01-02 is not a version of 2026-01-01"):
        run_crawl(configure_retry({"version": "2026-01-02"}))
    stage, manifest = run_crawl(configure_retry())
    for settings, name in (({"shard_size": 4}, "shard_size"), ({"image": {"size": 32}}, "image")):
        with pytest.raises(VecapError, match=rf"used a different crawl\.{name}"):
            run_crawl(configure_retry({"version": "2026-01-01"}, **settings))
    stage.store.put(manifest.file("00000.tar"), b"changed")
    with pytest.raises(CorruptError, match=r"00000\.tar is truncated after byte 7"):
        run_crawl(configure_retry({"version": "2026-01-01"}))


def test_an_unfinished_crawl_cannot_be_retried(configure_retry):
    config = configure_retry()
    register(Store(config.resolve(config.root)), config.dataset, "2026-01-01", "a" * 64, {})
    with pytest.raises(VecapError, match="version 2026-01-01 has no finished crawl"):
        run_crawl(configure_retry({"version": "2026-01-01"}))


@pytest.mark.parametrize(
    ("reason", "permanent"),
    [("http_404", True), ("http_403", True), ("http_429", False), ("http_500", False), ("timeout", False),
     ("dns", False), ("robots", True), ("not_an_image", True), ("incomplete", False), ("truncated", False)],
)  # fmt: skip
def test_which_reasons_are_permanent(reason, permanent):
    assert is_permanent(reason) is permanent


@pytest.mark.slow
def test_retry_failed_on_the_command_line(failing_web, configure_retry, tmp_path, capsys):
    config: Config = configure_retry()
    values = config.model_dump(mode="json") | {"root": str(tmp_path / "store"), "dask": {"workers": 1}}
    for stage in ("vlm", "llm"):
        values["rewrite"][stage]["model"] = config.resolve(config.rewrite.model_dump()[stage]["model"])
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    command = ["crawl", "--config", str(tmp_path / "c.yaml"), "--version", "2026-01-01", "--json"]
    store = Store(str(tmp_path / "store"))
    assert main([*command, "--retry-failed"]) == 1
    assert "has no version 2026-01-01" in capsys.readouterr().err
    assert list_versions(store, config.dataset) == []
    assert main(command) == 0
    capsys.readouterr()
    requests = failing_web.image_requests()
    assert main([*command, "--retry-failed", "http_503,timeout"]) == 0
    (outcome,) = json.loads(capsys.readouterr().out)
    assert (outcome["version"], outcome["shards_run"]) == ("2026-01-01-r2", 3)
    assert (outcome["counters"]["retried"], outcome["counters"]["recovered"]) == (1, 1)
    assert failing_web.image_requests() - requests == {"a.example/busy.png": 1}
    assert main([*command, "--retry-failed", "http_503,timeout"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["shards_run"] == 0
    assert main([*command, "--retry-failed", "dns"]) == 1
    assert "no failed rows for dns; its failures:" in capsys.readouterr().err
    assert [version.name for version in list_versions(store, config.dataset)] == ["2026-01-01", "2026-01-01-r2"]
