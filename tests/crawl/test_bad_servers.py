"""A crawl of misbehaving hosts: every row is present with its reason."""

import pyarrow.parquet as pq

from tests.crawl.conftest import crawl
from tests.crawl.web import Answer, bomb, cut, drip, endless, image, reset
from vecap_tasks.core.schemas import CRAWL

RED = image()
CASES = {
    "good.png": (Answer(RED), None),
    "drip.png": (drip, "timeout"),
    "endless.png": (endless, "too_large"),
    "reset.png": (reset, "connection_reset"),
    "cut.png": (cut, "incomplete"),
    "circle.png": (Answer(status=302, headers={"Location": "/circle.png"}), "too_many_redirects"),
    "inside.png": (Answer(status=302, headers={"Location": "http://169.254.169.254/"}), "forbidden_address"),
    "file.png": (Answer(status=302, headers={"Location": "file:///etc/passwd"}), "bad_redirect"),
    "nowhere.png": (Answer(status=302, headers={"Location": "http://no-such-host.invalid/"}), "dns"),
    "page.png": (Answer(b"<html>soon</html>", headers={"Content-Type": "image/png"}), "not_an_image"),
    "text.png": (Answer(RED, headers={"Content-Type": "text/plain"}), None),
    "half.png": (Answer(RED[: len(RED) // 2]), "truncated"),
    "bomb.png": (bomb(64 << 20), "too_large"),
    "empty.png": (Answer(b""), "empty"),
    "busy.png": (Answer(status=429), "http_429"),
    "later.png": (Answer(status=429, headers={"Retry-After": "0"}), "http_429"),
    "broken.png": (Answer(status=500), "http_500"),
    "shut/a.png": (Answer(RED), "robots"),
    "optout.png": (Answer(RED, headers={"X-Robots-Tag": "noml"}), "opt_out"),
}


def test_every_row_has_a_reason_and_the_counters_add_up(web, configure, seeds):
    web.page("/", "".join(f"<img src=/{name} alt='{name} {n}'>" for name in CASES for n in range(3)))
    web.answers |= {f"/{name}": answer for name, (answer, _) in CASES.items()}
    web.answers["/robots.txt"] = Answer(b"User-agent: *\nDisallow: /shut/")
    fetch = {"deadline": 1.5, "max_bytes": 1 << 20, "retries": 1, "connections": 4}
    stage, manifest = crawl(configure(seeds("http://site.example/"), fetch, shard_size=10))
    tables = [pq.read_table(stage.store.path(name)) for name in manifest.files_ending(".parquet") if "/0" in name]
    assert all(table.schema.equals(CRAWL) for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["caption"] for row in rows] == [f"{name} {n}" for name in CASES for n in range(3)]
    found = {row["caption"].split()[0]: (row["error_message"] or "").partition(":")[0] or None for row in rows}
    if found["reset.png"] == "incomplete":  # depends on how much the client had read
        found["reset.png"] = "connection_reset"
    assert found == {name: reason for name, (_, reason) in CASES.items()}
    counters = manifest.counters
    assert counters["success"] + counters["failed_to_download"] + counters["failed_to_resize"] == 3 * len(CASES)
    failed = sum(count for name, count in counters.items() if name.startswith("error."))
    assert counters["success"] + failed == counters["candidates"] == len(rows)
    assert all((row["status"] == "success") == (row["error_message"] is None) for row in rows)
