"""The S3 requests of a stage per shard do not grow with the number of shards."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.crawl.web import Answer, Web
from tests.faults import check
from tests.rewrite.conftest import CrawlRow, Sandbox, jpeg, save_llm, save_vlm
from vecap_tasks.config import Config
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.version import Version

log = logging.getLogger(__name__)

SIZES = pytest.mark.parametrize(  # of versions, in shards
    "sizes",
    [
        pytest.param((10, 30), marks=pytest.mark.slow),
        pytest.param((10, 100, 1000), marks=[pytest.mark.exhaustive, pytest.mark.timeout(7200)]),
    ],
)
ROWS = 2  # per shard
MAX_REQUESTS = {"crawl": 40, "quality": 35, "rewrite": 35, "assemble": 40}  # per shard, of all kinds


@dataclass
class CountingServer:
    """An S3 server that counts its requests by kind."""

    requests: Counter[str] = field(default_factory=Counter)
    url: str = ""


@pytest.fixture
def server() -> Iterator[CountingServer]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    counting, app = CountingServer(), DomainDispatcherApplication(create_backend_app)

    def count(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        listing = environ["REQUEST_METHOD"] == "GET" and "list-type" in environ.get("QUERY_STRING", "")
        counting.requests["LIST" if listing else environ["REQUEST_METHOD"]] += 1
        answer: Iterable[bytes] = app(environ, start)
        return answer

    listener = make_server("127.0.0.1", 0, count, threaded=True)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    counting.url = f"http://127.0.0.1:{listener.port}"
    yield counting
    listener.shutdown()
    thread.join()
    listener.server_close()


@pytest.fixture
def sandbox(server: CountingServer, create_bucket: Callable[[str], str], tmp_path: Any) -> Sandbox:
    bucket = create_bucket(server.url)
    sandbox = Sandbox(tmp_path, save_vlm(tmp_path / "vlm"), save_llm(tmp_path / "llm"))
    sandbox.root = f"s3://{bucket}/store"
    return sandbox


def count_requests(server: CountingServer, config: Config, sandbox: Sandbox, shards: int) -> dict[str, Counter[str]]:
    """Return the requests of each stage of a version with *shards* crawl shards, the only one of its dataset."""
    config = Config.model_validate(config.model_dump() | {"dataset": f"of-{shards}"}).with_base(config.base)
    rows = [CrawlRow(f"A Belvo {number} tulip", image=number % 50) for number in range(ROWS * shards)]
    version = sandbox.write_crawl(config, rows, "2026-01-01", ROWS)
    crawl = load_stage("crawl", config, version)
    crawl.store.remove_folder(f"{version.folder}/quality")
    counts = {}
    for name in ("quality", "rewrite", "assemble"):
        server.requests.clear()
        run_stage(name, config, version)
        counts[name] = Counter(server.requests)
    return counts


def run_stage(name: str, config: Config, version: Version) -> None:
    stage = load_stage(name, config, version)
    for part in stage.pending_preparations():
        stage.prepare(part)
    for shard in stage.plan():
        stage.run(shard)
    stage.commit()


def per_shard(by_stage: dict[str, Counter[str]], shards: int) -> dict[str, dict[str, float]]:
    return {
        name: {kind: round(count / shards, 1) for kind, count in sorted(requests.items())}
        for name, requests in by_stage.items()
    }


@SIZES
def test_requests_per_shard_are_constant(
    sizes: tuple[int, ...], server: CountingServer, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vecap_tasks.quality.expectations", check)
    config = sandbox.config(shard_size=ROWS)
    values = {"assemble": {"shard_size": ROWS}, "quality": {"rows": {"max_alttexts_per_image": 1000}}}
    config = Config.model_validate(config.model_dump() | values).with_base(config.base)
    counts = {shards: count_requests(server, config, sandbox, shards) for shards in sizes}
    check_counts(counts)


@SIZES
def test_requests_of_the_crawl_per_shard_are_constant(
    sizes: tuple[int, ...], server: CountingServer, sandbox: Sandbox, tmp_path: Path
) -> None:
    counts = {}
    with Web() as web:
        fetch = {"connect_to": {"*.example": f"127.0.0.1:{web.port}"}, "allow_networks": ["127.0.0.0/8"]}
        for number in range(ROWS * max(sizes)):
            web.answers[f"/{number}.jpg"] = Answer(jpeg(number % 50), headers={"Content-Type": "image/jpeg"})
        for shards in sizes:
            urls = "".join(f"http://a.example/{number}.jpg\n" for number in range(ROWS * shards))
            (tmp_path / f"{shards}.txt").write_text(urls)
            source = {"kind": "urls", "paths": [str(tmp_path / f"{shards}.txt")]}
            crawl = {"source": source, "fetch": fetch, "shard_size": ROWS}
            values = sandbox.config().model_dump() | {"crawl": crawl, "dataset": f"of-{shards}"}
            config = Config.model_validate(values).with_base(tmp_path)
            server.requests.clear()
            run_stage("crawl", config, Version(config.dataset, "2026-01-01", 1, "f" * 64))
            counts[shards] = {"crawl": Counter(server.requests)}
    check_counts(counts)


def check_counts(counts: dict[int, dict[str, Counter[str]]]) -> None:
    """Check that the requests per shard of each stage are bounded and do not grow; *counts* are by number of shards."""
    smallest = min(counts)
    log.info("S3 requests per shard: %s", {shards: per_shard(by_stage, shards) for shards, by_stage in counts.items()})
    for shards, by_stage in counts.items():
        for name, requests in by_stage.items():
            assert requests.total() <= MAX_REQUESTS[name] * shards
            # A fixed part is shared by more shards.
            assert requests.total() / shards <= counts[smallest][name].total() / smallest * 1.05
