"""How far a crawl is from those before it: distances by hand, and which versions are compared with."""

import json
import math
from dataclasses import asdict

import pytest

from tests.quality.factories import Row, configure, give_crawl, use_given
from vecap_tasks.core import stage as core_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version
from vecap_tasks.errors import GateFailed
from vecap_tasks.quality.gate import jensen_shannon, previous_versions
from vecap_tasks.quality.report import report_page


@pytest.fixture(autouse=True)
def _given(monkeypatch):
    use_given(monkeypatch)


def test_the_distance_is_0_for_the_same_shares_and_1_for_nothing_in_common():
    assert jensen_shannon({"a": 1, "b": 3}, {"a": 10, "b": 30}) == 0
    assert jensen_shannon({"a": 5}, {"b": 7}) == 1
    by_hand = math.sqrt(0.5 * (0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25)) + 0.5 * math.log2(1 / 0.75))
    assert jensen_shannon({"a": 1, "b": 1}, {"a": 9}) == pytest.approx(by_hand, abs=1e-6)


def publish(config, interval, folder_of_crawl, rows):
    """Take *rows* through quality, and publish the version by a crawl in the place of what assembles it."""
    place = config.base / "given"
    if (place / "crawl").exists():
        (place / "crawl").rename(place / folder_of_crawl)
    give_crawl(config.base, rows)
    version = Version(config.dataset, interval, 1, "")
    made = {}
    for name in ("crawl", "quality"):
        stage = core_stage.load_stage(name, config, version)
        for shard in stage.plan():
            stage.run(shard)
        made[name] = stage.commit()
    store = Store(config.resolve(config.root))
    store.put(f"{version.folder}/version.json", _bound(version))
    store.put(f"{version.folder}/assemble/manifest.json", made["crawl"].to_json())
    return made["quality"]


def _bound(version):
    return json.dumps(asdict(version) | {"config": {}}).encode()


USUAL = [Row(caption=f"A heron seen {n} times by the river", language="en") for n in range(30)]
OTHER = [Row(caption=f"Reiher {n}", language="de", original_width=1000, original_height=900) for n in range(30)]


def test_a_crawl_that_moved_warns_and_the_content_does_not_tell(tmp_path, caplog):
    config = configure(tmp_path)
    first = publish(config, "2026-01-01", "first", USUAL)
    assert first.provenance["notes"]["warnings"] == 0
    second = publish(config, "2026-01-02", "second", OTHER)
    store = Store(config.resolve(config.root))
    page = store.read(second.file("report/index.html")).decode()
    assert second.provenance["notes"]["warnings"] == 3
    assert "languages has moved by 1 from the versions before (de from 0.0% to 100.0%), at most 0.3 is allowed" in page
    assert "Compared with 2026-01-01" in page
    assert "sides has moved" in caplog.text
    where = report_page(store, Version(config.dataset, "2026-01-02", 1, ""))
    assert where == f"{store.root}/{second.file('report/index.html')}"
    alone = configure(tmp_path, dataset="alone")
    assert publish(alone, "2026-01-02", "third", OTHER).files == second.files


def test_a_stop_of_drift_leaves_no_version_and_names_what_moved(tmp_path):
    publish(configure(tmp_path), "2026-01-01", "first", USUAL)
    strict = configure(tmp_path, quality={"drift": {"languages": {"stop": 0.5}}})
    with pytest.raises(GateFailed, match=r"refused: languages has moved by 1 .*de from 0\.0% .*change quality\.drift"):
        publish(strict, "2026-01-02", "second", OTHER)
    stage = core_stage.load_stage("quality", strict, Version("given", "2026-01-02", 1, ""))
    assert stage.manifest() is None
    lenient = configure(tmp_path, quality={"drift": {"languages": {"stop": 1}}})
    assert (
        core_stage.load_stage("quality", lenient, Version("given", "2026-01-02", 1, "")).plan() == []
    )  # judged anew alone


def test_later_intervals_and_unpublished_ones_are_not_compared_with(tmp_path):
    config = configure(tmp_path)
    for day in (1, 2, 4, 5):
        publish(config, f"2026-01-0{day}", f"day{day}", USUAL[: 20 + day])
    store = Store(config.resolve(config.root))
    store.remove("given/2026-01-02/assemble/manifest.json")

    def names(count):
        return [one.version for one in previous_versions(store, Version("given", "2026-01-05", 1, ""), count)]

    assert names(7) == ["2026-01-04", "2026-01-01"]
    assert names(1) == ["2026-01-04"]
    assert names(0) == []
