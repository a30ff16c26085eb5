"""A crawl that is killed repeatedly produces the same bytes as an uninterrupted one."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.conftest import DEMO, REPOSITORY
from tests.crawl.web import Answer, Web

IMAGES = 2000
SHARD = 50
KILLS = 10


class CrawlProcess:
    """A crawl of the server into its own store, through the command line."""

    def __init__(self, home, port):
        self._home = home
        source = {"kind": "site", "seeds": ["http://site.example/"], "max_depth": 0}
        settings = {
            "root": str(home / "store"),
            "crawl.source": source,
            "crawl.shard_size": SHARD,
            "crawl.fetch.connect_to": {"*.example": f"127.0.0.1:{port}"},
            "dask.workers": 1,
        }
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]
        self._words = ["--config", str(DEMO), "--version", "2026-01-01", *sets]

    def start(self, command, *more):
        """Start `vecap COMMAND` in its own process group."""
        return subprocess.Popen(
            [sys.executable, "-m", "vecap_tasks.cli", command, *self._words, *more],
            env=os.environ | {"VECAP_HOME": str(self._home), "OMP_NUM_THREADS": "1"},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def digest(self):
        """Run the crawl and return the digest of its manifest."""
        process = self.start("crawl", "--json")
        output = process.communicate(timeout=400)[0]
        assert process.returncode == 0
        return json.loads(output)[0]["digest"]

    def kill_during_crawl(self, web, random):
        """Kill the crawl and its workers at a random moment; return whether it was still running."""
        process = self.start("crawl", "--json")
        limit = web.request_counts.total() + random.randint(1, IMAGES // KILLS)
        while web.request_counts.total() < limit and process.poll() is None:
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.3))
        alive = process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return alive

    def receipts(self):
        return len(list(self._home.glob("store/demo/*/crawl/_shards/*.json")))


def image_files():
    """Return small images; every tenth is a duplicate of the one before."""
    files = []
    for number in range(IMAGES):
        out = io.BytesIO()
        color = number - 1 if number % 10 == 9 else number
        Image.new("RGB", (40, 30), (color % 256, color // 256, 77)).save(out, "PNG")
        files.append(out.getvalue())
    return files


@pytest.mark.exhaustive
def test_a_crawl_killed_ten_times_produces_the_same_bytes(tmp_path):
    with Web() as web:
        web.page("/", "".join(f"<img src=/{n}.png alt='picture {n}'>" for n in range(IMAGES)))
        web.answers |= {f"/{n}.png": Answer(body) for n, body in enumerate(image_files())}
        expected = CrawlProcess(tmp_path / "uninterrupted", web.port).digest()
        crawl = CrawlProcess(tmp_path / "killed", web.port)
        rng = random.Random(20260101)
        done = [crawl.receipts() for _ in range(KILLS) if crawl.kill_during_crawl(web, rng)]
        assert len(done) == KILLS
        assert done == sorted(done)  # finished shards stay finished
        assert 0 < done[-1] < IMAGES // SHARD
        assert crawl.digest() == expected
        verified = crawl.start("verify")
        verified.communicate(timeout=400)
        assert verified.returncode == 0
