"""One fetcher for all shards of a process."""

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import REPOSITORY
from tests.crawl.conftest import crawl, stage_of
from tests.crawl.test_fetcher import URL, keep
from tests.crawl.web import Answer, image
from vecap_tasks.crawl.http.fetcher import FetcherThread


def test_shards_share_connections_and_robots_txt(web, configure, seeds):
    ports = set()

    async def picture(request):
        ports.add(request.transport.get_extra_info("peername")[1])
        return await web._answer(request.clone(rel_url="/red.png"))

    web.page("/", "".join(f"<img src=/{n}.png>" for n in range(6)))
    web.answers |= {"/red.png": Answer(image())} | {f"/{n}.png": picture for n in range(6)}
    manifest = crawl(configure(seeds("http://site.example/"), {"connections_per_host": 1}, shard_size=2))[1]
    assert manifest.counters["success"] == 6
    assert len(ports) == 1
    assert web.request_counts["site.example/robots.txt"] == 2  # once for the pages, once for the images of three shards


def test_concurrent_work_shares_the_slots(web, fetch_config):
    active = peak = 0

    async def slow(request):
        nonlocal active, peak
        active += 1
        peak = max(peak, active)
        await asyncio.sleep(0.05)
        active -= 1
        return await web._answer(request.clone(rel_url="/fast"))

    web.answers |= {"/a.png": slow, "/fast": Answer(b"x")}
    fetcher_thread = FetcherThread(fetch_config(connections_per_host=3))
    with ThreadPoolExecutor(8) as threads:
        bodies = list(threads.map(lambda _: fetcher_thread.run(lambda fetcher: fetcher.get(URL, keep)).body, range(8)))
    fetcher_thread.close()
    assert (bodies, peak) == ([b"x"] * 8, 3)


def test_errors_are_raised_and_the_fetcher_stays_usable(web, fetch_config):
    async def fail(fetcher):
        raise OSError("no space")

    web.answers["/a.png"] = Answer(b"x")
    fetcher_thread = FetcherThread(fetch_config())
    with pytest.raises(OSError, match="no space"):
        fetcher_thread.run(fail)
    assert fetcher_thread.run(lambda fetcher: fetcher.get(URL, keep)).body == b"x"


def test_the_thread_ends_with_its_object(fetch_config):
    before = set(threading.enumerate())
    fetcher_thread = FetcherThread(fetch_config())
    reference = weakref.ref(fetcher_thread)
    (thread,) = set(threading.enumerate()) - before
    del fetcher_thread
    gc.collect()
    assert reference() is None
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_downloading_does_not_import_duckdb_or_torch(web, configure, seeds, tmp_path):
    web.page("/", "<img src=/red.png>")
    web.image("/red.png")
    stage = stage_of(configure(seeds("http://site.example/")))
    (shard,) = stage.plan()
    (tmp_path / "config.json").write_text(stage.config.model_dump_json())
    script = """if True:
        import json, sys
        from pathlib import Path
        from tests.crawl.conftest import stage_of
        from vecap_tasks.config import parse_config
        path = Path(sys.argv[1])
        stage = stage_of(parse_config(json.loads(path.read_text()), Path(sys.argv[2])))
        print(stage.run(sys.argv[3]).counters["success"], sorted({"duckdb", "torch"} & set(sys.modules)))
    """
    command = [sys.executable, "-c", script, str(tmp_path / "config.json"), str(stage.config.base), shard]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout == "1 []\n"
