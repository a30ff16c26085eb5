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
from tests.crawl.test_fetcher import URL, _keep
from tests.crawl.web import Answer, image
from vecap_tasks.crawl.http.fetcher import FetcherThread


def test_shards_share_connections_and_what_a_host_permits(web, configure, seeds):
    ports = set()

    async def picture(request):
        ports.add(request.transport.get_extra_info("peername")[1])
        return await web._answer(request.clone(rel_url="/red.png"))

    web.page("/", "".join(f"<img src=/{n}.png>" for n in range(6)))
    web.answers |= {"/red.png": Answer(image())} | {f"/{n}.png": picture for n in range(6)}
    manifest = crawl(configure(seeds("http://site.example/"), {"connections_per_host": 1}, shard_size=2))[1]
    assert manifest.counters["success"] == 6
    assert len(ports) == 1
    assert web.asked["site.example/robots.txt"] == 2  # once for the pages, once for the images of three shards


def test_work_side_by_side_shares_the_slots(web, fetch_config):
    at_once = most = 0

    async def slow(request):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.05)
        at_once -= 1
        return await web._answer(request.clone(rel_url="/fast"))

    web.answers |= {"/a.png": slow, "/fast": Answer(b"x")}
    client = FetcherThread(fetch_config(connections_per_host=3))
    with ThreadPoolExecutor(8) as threads:
        bodies = list(threads.map(lambda _: client.run(lambda fetcher: fetcher.get(URL, _keep)).body, range(8)))
    client.close()
    assert (bodies, most) == ([b"x"] * 8, 3)


def test_what_fails_in_the_work_is_raised_and_the_client_goes_on(web, fetch_config):
    async def fail(fetcher):
        raise OSError("no space")

    web.answers["/a.png"] = Answer(b"x")
    client = FetcherThread(fetch_config())
    with pytest.raises(OSError, match="no space"):
        client.run(fail)
    assert client.run(lambda fetcher: fetcher.get(URL, _keep)).body == b"x"


def test_its_thread_ends_with_it(fetch_config):
    before = set(threading.enumerate())
    client = FetcherThread(fetch_config())
    gone = weakref.ref(client)
    (thread,) = set(threading.enumerate()) - before
    del client
    gc.collect()
    assert gone() is None
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_a_process_that_fetches_imports_nothing_heavy(web, configure, seeds, tmp_path):
    web.page("/", "<img src=/red.png>")
    web.image("/red.png")
    stage = stage_of(configure(seeds("http://site.example/")))
    (shard,) = stage.plan()
    (tmp_path / "config.json").write_text(stage.config.model_dump_json())
    asked = """if True:
        import json, sys
        from pathlib import Path
        from tests.crawl.conftest import stage_of
        from vecap_tasks.config import parse_config
        path = Path(sys.argv[1])
        stage = stage_of(parse_config(json.loads(path.read_text()), Path(sys.argv[2])))
        print(stage.run(sys.argv[3]).counters["success"], sorted({"duckdb", "torch"} & set(sys.modules)))
    """
    command = [sys.executable, "-c", asked, str(tmp_path / "config.json"), str(stage.config.base), shard]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout == "1 []\n"
