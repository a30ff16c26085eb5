"""Drift of a crawl from previous versions: distances, and the choice of versions."""

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
def _prepared_stages(monkeypatch):
    use_given(monkeypatch)


def test_the_distance_is_0_for_equal_shares_and_1_for_disjoint_histograms():
    assert jensen_shannon({"a": 1, "b": 3}, {"a": 10, "b": 30}) == 0
    assert jensen_shannon({"a": 5}, {"b": 7}) == 1
    expected = math.sqrt(0.5 * (0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25)) + 0.5 * math.log2(1 / 0.75))
    assert jensen_shannon({"a": 1, "b": 1}, {"a": 9}) == pytest.approx(expected, abs=1e-6)


def publish(config, interval, crawl_folder, rows):
    """Run quality on *rows* and publish the version with the crawl's manifest instead of assemble's."""
    folder = config.base / "given"
    if (folder / "crawl").exists():
        (folder / "crawl").rename(folder / crawl_folder)
    give_crawl(config.base, rows)
    version = Version(config.dataset, interval, 1, "")
    manifests = {}
    for name in ("crawl", "quality"):
        stage = core_stage.load_stage(name, config, version)
        for shard in stage.plan():
            stage.run(shard)
        manifests[name] = stage.commit()
    store = Store(config.resolve(config.root))
    store.put(f"{version.folder}/version.json", _version_json(version))
    store.put(f"{version.folder}/assemble/manifest.json", manifests["crawl"].to_json())
    return manifests["quality"]


def _version_json(version):
    return json.dumps(asdict(version) | {"config": {}}).encode()


BASELINE = [Row(caption=f"A heron seen {n} times by the river", language="en") for n in range(30)]
DRIFTED = [Row(caption=f"Reiher {n}", language="de", original_width=1000, original_height=900) for n in range(30)]


def test_drift_warns_without_changing_data_files(tmp_path, caplog):
    config = configure(tmp_path)
    first = publish(config, "2026-01-01", "first", BASELINE)
    assert first.provenance["notes"]["warnings"] == 0
    second = publish(config, "2026-01-02", "second", DRIFTED)
    store = Store(config.resolve(config.root))
    page = store.read(second.file("report/index.html")).decode()
    assert second.provenance["notes"]["warnings"] == 3
    assert "languages drifted by 1 from previous versions (de from 0.0% to 100.0%), maximum 0.3" in page
    assert "Compared with 2026-01-01" in page
    assert "sides drifted" in caplog.text
    path = report_page(store, Version(config.dataset, "2026-01-02", 1, ""))
    assert path == f"{store.root}/{second.file('report/index.html')}"
    other = configure(tmp_path, dataset="alone")
    assert publish(other, "2026-01-02", "third", DRIFTED).files == second.files


def test_a_drift_stop_fails_the_gate_and_names_the_change(tmp_path):
    publish(configure(tmp_path), "2026-01-01", "first", BASELINE)
    strict = configure(tmp_path, quality={"drift": {"languages": {"stop": 0.5}}})
    with pytest.raises(GateFailed, match=r": languages drifted by 1 .*de from 0\.0% .*change quality\.drift"):
        publish(strict, "2026-01-02", "second", DRIFTED)
    stage = core_stage.load_stage("quality", strict, Version("given", "2026-01-02", 1, ""))
    assert stage.manifest() is None
    lenient = configure(tmp_path, quality={"drift": {"languages": {"stop": 1}}})
    assert (
        core_stage.load_stage("quality", lenient, Version("given", "2026-01-02", 1, "")).plan() == []
    )  # only the gate runs again


def test_only_earlier_published_intervals_are_compared(tmp_path):
    config = configure(tmp_path)
    for day in (1, 2, 4, 5):
        publish(config, f"2026-01-0{day}", f"day{day}", BASELINE[: 20 + day])
    store = Store(config.resolve(config.root))
    store.remove("given/2026-01-02/assemble/manifest.json")

    def names(count):
        return [found.version for found in previous_versions(store, Version("given", "2026-01-05", 1, ""), count)]

    assert names(7) == ["2026-01-04", "2026-01-01"]
    assert names(1) == ["2026-01-04"]
    assert names(0) == []
