"""A crawl that is killed again and again ends in the same bytes as one that is left alone."""

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


class Place:
    """A crawl of the server into a store of its own, by the command that a person runs."""

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
        """Start `vecap COMMAND` in a process group of its own."""
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
        """Run the crawl to its end and return the digest of its manifest."""
        process = self.start("crawl", "--json")
        said = process.communicate(timeout=400)[0]
        assert process.returncode == 0
        return json.loads(said)[0]["digest"]

    def killed(self, web, random):
        """Kill the crawl with its workers some images and some milliseconds on; say whether it was still at work."""
        process = self.start("crawl", "--json")
        enough = web.asked.total() + random.randint(1, IMAGES // KILLS)
        while web.asked.total() < enough and process.poll() is None:
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.3))
        alive = process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return alive

    def receipts(self):
        return len(list(self._home.glob("store/demo/*/crawl/_shards/*.json")))


def pictures():
    """Return different small images, one of them at every tenth place twice."""
    made = []
    for number in range(IMAGES):
        out = io.BytesIO()
        one = number - 1 if number % 10 == 9 else number
        Image.new("RGB", (40, 30), (one % 256, one // 256, 77)).save(out, "PNG")
        made.append(out.getvalue())
    return made


@pytest.mark.exhaustive
def test_a_crawl_killed_ten_times_ends_as_one_left_alone(tmp_path):
    with Web() as web:
        web.page("/", "".join(f"<img src=/{n}.png alt='picture {n}'>" for n in range(IMAGES)))
        web.answers |= {f"/{n}.png": Answer(body) for n, body in enumerate(pictures())}
        alone = Place(tmp_path / "alone", web.port).digest()
        place = Place(tmp_path / "killed", web.port)
        chance = random.Random(20260101)
        done = [place.receipts() for _ in range(KILLS) if place.killed(web, chance)]
        assert len(done) == KILLS
        assert done == sorted(done)  # what was done stays done
        assert 0 < done[-1] < IMAGES // SHARD
        assert place.digest() == alone
        verified = place.start("verify")
        verified.communicate(timeout=400)
        assert verified.returncode == 0
