"""The quarantine: rejected rows, and their release."""

import json

import pytest

from tests.quality.factories import INTERVAL, Given, Row, configure, give_crawl, use_given
from vecap_tasks.cli import __main__ as cli
from vecap_tasks.core import stage as core_stage
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.releases import count_releases, read_releases
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.stage_records import recorded_failure
from vecap_tasks.core.store import Store
from vecap_tasks.errors import CorruptError, GateFailed, VecapError
from vecap_tasks.quality.quarantine import (
    REJECTED_SCHEMA,
    has_verdicts,
    index_rejected,
    list_rows,
    preview_release,
    rejected_batches,
    release,
    withdraw,
)

ROWS = [
    Row(),
    Row(flat=True, caption="A white wall"),
    Row(flat=True, original_width=7, caption="A white door"),
    Row(original_width=8, original_height=8, caption="IMG_1.jpg"),
    Row(status="failed_to_download", error_message="http_404"),
    *(Row(caption=f"Beagle {n}") for n in range(3)),
]
WALL, DOOR, SMALL, LOST = (f"{n:032x}" for n in range(1, 5))


@pytest.fixture
def config(tmp_path, monkeypatch):
    use_given(monkeypatch)
    monkeypatch.setitem(core_stage.STAGES, "assemble", f"{__name__}:Published")
    give_crawl(tmp_path, ROWS)
    return configure(tmp_path)


class Published(Given):
    """A replacement for assemble, so that a version is bound to the output of quality."""

    name = "assemble"
    upstream = ("crawl", "quality")


def judged(config):
    """Open the configuration's version, run crawl and quality, and return store, version and quality manifest."""
    version = open_version(config, Store(config.resolve(config.root)), INTERVAL)
    for name in ("crawl", "quality"):
        stage = load_stage(name, config, version)
        for shard in stage.plan():
            stage.run(shard)
        manifest = stage.commit()
    return Store(config.resolve(config.root)), version, manifest


def test_reasons_are_counted_and_rows_have_the_details_for_a_decision(config):
    store, version, manifest = judged(config)
    counts = {count.reason: count for count in index_rejected(store, version).reasons}
    assert {name: (count.rows, count.only_reason) for name, count in counts.items()} == {
        "flat": (2, 1),
        "too_small": (2, 1),
        "aspect": (1, 0),
        "not_downloaded": (1, 1),
    }
    assert {name: count.rows for name, count in counts.items()} == {
        name.removeprefix("reason."): rows for name, rows in manifest.counters.items() if name.startswith("reason.")
    }
    assert [name for name, count in counts.items() if not count.releasable] == ["not_downloaded"]
    page = list_rows(store, version, "flat")
    assert (page.total, [row.uid for row in page.rows]) == (2, [WALL, DOOR])
    assert page.rows[1].reasons == ("too_small", "aspect", "flat")
    assert page.rows[1].caption == "A white door"
    assert (page.rows[1].original_width, page.rows[1].original_height) == (7, 48)
    assert store.exists(page.rows[0].tar.removeprefix(f"{store.root}/"))
    everything = list_rows(store, version, limit=2, offset=2)
    assert (everything.total, [row.uid for row in everything.rows]) == (4, [SMALL, LOST])
    assert everything.rows[1].error_message == "http_404"
    assert not everything.rows[1].releasable


def test_a_page_reads_only_the_tables_with_its_rows(tmp_path, monkeypatch):
    use_given(monkeypatch)
    monkeypatch.setitem(core_stage.STAGES, "assemble", f"{__name__}:Published")
    give_crawl(tmp_path, [*ROWS, *ROWS, *ROWS], shard_size=2)
    store, version, _ = judged(configure(tmp_path))
    index = index_rejected(store, version)
    assert len(index.files) == 12
    everything = list_rows(store, version).rows
    assert [row.key for row in everything] == sorted(row.key for row in everything)
    for reason in (None, "flat", "not_downloaded", "unknown"):
        shown = [row for row in everything if reason is None or reason in row.reasons]
        for offset, limit in ((0, 3), (1, 1), (2, 5), (len(shown), 2)):
            page = list_rows(store, version, reason, limit, offset, index)
            assert (page.total, page.rows) == (len(shown), tuple(shown[offset : offset + limit]))
    lost = next(row for row in everything if "not_downloaded" in row.reasons)
    assert index.files_at("not_downloaded", 0, 1) == ([f"{version.folder}/quality/verdicts/{lost.key[:5]}.parquet"], 0)


def test_a_quarantine_exists_while_the_stage_runs_only_after_a_failure(config):
    version = open_version(config, Store(config.resolve(config.root)), INTERVAL)
    crawl = load_stage("crawl", config, version)
    for shard in crawl.plan():
        crawl.run(shard)
    crawl.commit()
    quality = load_stage("quality", config, version)
    for shard in quality.plan():
        assert not has_verdicts(quality.store, version)
        quality.run(shard)
    assert not has_verdicts(quality.store, version), "the gate has not evaluated the verdicts"
    with pytest.raises(GateFailed), recorded_failure(quality.store, quality.folder):
        raise GateFailed("too few rows")
    assert has_verdicts(quality.store, version)
    quality.commit()
    assert has_verdicts(quality.store, version)


def test_a_release_creates_a_revision_and_withdrawing_it_returns_to_the_first_version(config):
    store, first, before = judged(config)
    release(store, first, uids=[DOOR], note="it is a door", by="ann")
    _, second, after = judged(config)
    assert (first.name, second.name) == ("2026-01-01", "2026-01-01-r2")
    assert after.counters["accepted"] == before.counters["accepted"] + 1
    assert after.counters["released"] == 1
    assert [item.kind for item in after.inputs] == ["stage", "release"]
    assert {row.uid for row in list_rows(store, second).rows} == {WALL, SMALL, LOST}
    release(store, second, reason="flat", note="walls are fine", by="ben")
    _, third, more = judged(config)
    assert (third.name, more.counters["accepted"]) == ("2026-01-01-r3", before.counters["accepted"] + 2)
    # Earlier revisions do not change.
    for version, manifest in ((first, before), (second, after), (third, more)):
        assert load_stage("quality", config, version).manifest() == manifest
    withdraw(store, third, reason="flat", note="they are not", by="ben")
    assert judged(config)[1] == second
    withdraw(store, second, uids=[DOOR], note="a window", by="ann")
    assert judged(config)[1] == first
    assert [entry.action for entry in read_releases(store, "given", INTERVAL)] == ["release"] * 2 + ["withdraw"] * 2


def test_a_release_adds_the_rows_that_its_preview_reports(config):
    store, version, manifest = judged(config)
    steps = {
        "flat": "releasing flat adds 1 row: 1 is also rejected for aspect, too_small",
        "aspect": "releasing aspect adds 0 rows: it is also rejected for too_small",
        "too_small": "releasing too_small adds 2 rows",
    }
    for reason, text in steps.items():
        preview = preview_release(store, version, reason=reason)
        assert str(preview) == text
        release(store, version, reason=reason, note="why", by="ann", force=True)
        store, version, after = judged(config)
        assert after.counters["accepted"] == manifest.counters["accepted"] + preview.added
        manifest = after
    assert [count.reason for count in index_rejected(store, version).reasons] == ["not_downloaded"]


def test_a_preview_considers_earlier_releases(config):
    store, version, _ = judged(config)
    release(store, version, uids=[WALL], note="why", by="ann")
    assert str(preview_release(store, version, reason="flat")) == (
        "releasing flat adds 0 rows: earlier releases accept 1 of them; 1 is also rejected for aspect, too_small"
    )
    release(store, version, reason="too_small", note="why", by="ann")
    assert preview_release(store, version, reason="aspect").others == (("flat", 1),)
    assert preview_release(store, version, uids=[WALL, DOOR]).added == 1


def test_a_release_that_adds_nothing_is_recorded_only_with_force(config):
    store, version, _ = judged(config)
    with pytest.raises(VecapError, match=r"adds 0 rows: it is also rejected for .*; nothing was released; .* --force"):
        release(store, version, reason="aspect", note="why", by="ann")
    assert count_releases(store, "given", INTERVAL) == 0
    release(store, version, reason="aspect", note="why", by="ann", force=True)
    assert count_releases(store, "given", INTERVAL) == 1
    preview = preview_release(store, version, uids=[WALL, DOOR])
    assert (preview.rows, preview.added, preview.already) == (2, 2, 0)


def test_rejected_rows_are_read_by_shard(config):
    store, version, _ = judged(config)
    batches = list(rejected_batches(store, version))
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert [row["uid"] for row in rows] == [WALL, DOOR, SMALL, LOST]
    assert all(batch.schema.names == REJECTED_SCHEMA.names for batch in batches)
    assert rows[1]["reasons"] == ["too_small", "aspect", "flat"]
    flat = [row["uid"] for batch in rejected_batches(store, version, "flat") for row in batch.to_pylist()]
    assert flat == [WALL, DOOR]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"uids": [LOST]}, "cannot release 0.*: no image; retry"),
        ({"uids": [WALL, LOST, "f" * 32]}, "has no rejected row f"),
        ({"reason": "not_downloaded"}, "cannot release not_downloaded: these rows have no image; retry"),
        ({"reason": "host_cap"}, "2026-01-01 rejects no rows for host_cap; its reasons: aspect, flat"),
        ({}, "give --uid or --reason"),
        ({"uids": [WALL], "reason": "flat"}, "give --uid or --reason"),
        ({"uids": [WALL], "note": "  "}, "needs a note"),
    ],
)
def test_an_invalid_release_is_an_error_and_writes_nothing(config, what, message):
    store, version, _ = judged(config)
    with pytest.raises(VecapError, match=message):
        release(store, version, **{"note": "why", "by": "ann"} | what)
    assert count_releases(store, "given", INTERVAL) == 0
    with pytest.raises(VecapError, match="is not released"):
        withdraw(store, version, uids=[WALL], note="why", by="ann")


def test_a_version_that_fails_the_gate_has_a_quarantine(config):
    strict = config.model_copy(
        update={"quality": config.quality.model_validate({"gate": {"min_accepted_rows": 100}})}
    ).with_base(config.base)
    with pytest.raises(GateFailed):
        judged(strict)
    store = Store(config.resolve(config.root))
    version = open_version(strict, store, INTERVAL)
    assert list_rows(store, version).total == 4


def test_a_missing_release_entry_is_corruption(config):
    store, version, _ = judged(config)
    name = release(store, version, uids=[WALL], note="why", by="ann")
    _, second, _ = judged(config)
    store.remove(name)
    with pytest.raises(CorruptError, match="has 0 entries, but a version uses 1"):
        load_stage("quality", config, second).manifest()


def test_quarantine_commands(config, capsys, tmp_path):
    judged(config)
    values = json.loads(config.model_dump_json())
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(values))
    common = ["--config", str(file), "--version", INTERVAL]
    assert cli.main(["quarantine", *common, "--reason", "flat", "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 2 rows rejected for flat" in shown
    assert "A white wall" in shown
    assert "A white door" not in shown
    assert cli.main(["quarantine", "release", *common, "--reason", "aspect", "--dry-run"]) == 0
    assert capsys.readouterr().out == "releasing aspect adds 0 rows: it is also rejected for flat, too_small\n"
    assert cli.main(["quarantine", "release", *common, "--reason", "aspect", "--note", "fine"]) == 1
    assert "nothing was released" in capsys.readouterr().err
    assert cli.main(["quarantine", "release", *common, "--uid", WALL, "--dry-run", "--json"]) == 0
    dry = json.loads(capsys.readouterr().out)
    assert (dry["entry"], dry["preview"]["added"]) == (None, 1)
    assert count_releases(Store(config.resolve(config.root)), "given", INTERVAL) == 0
    assert cli.main(["quarantine", "release", *common, "--uid", WALL, "--note", "fine", "--by", "ann"]) == 0
    out = capsys.readouterr().out
    assert "adds 1 row" in out
    assert "given/_releases/2026-01-01/000001.json" in out
    assert cli.main(["quarantine", *common, "--dry-run"]) == 1
    assert "--dry-run and --force are options of release" in capsys.readouterr().err
    assert cli.main(["quarantine", "releases", *common, "--json"]) == 0
    assert [entry["by"] for entry in json.loads(capsys.readouterr().out)] == ["ann"]
    assert cli.main(["quarantine", "release", *common, "--uid", LOST, "--note", "fine"]) == 1
    assert "cannot release" in capsys.readouterr().err
    assert cli.main(["quarantine", *common, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reasons"][0]["reason"] == "flat"
