"""The quarantine: what is in it, and rows that a person lets go on."""

import json

import pytest

from tests.quality.factories import INTERVAL, Given, Row, configure, give_crawl, use_given
from vecap_tasks.cli import __main__ as cli
from vecap_tasks.core import stage as core_stage
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.releases import count_releases, read_releases
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.errors import CorruptError, GateFailed, VecapError
from vecap_tasks.quality.quarantine import list_reasons, list_rows, release, withdraw

ROWS = [
    Row(),
    Row(flat=True, caption="A white wall"),
    Row(flat=True, original_width=8, caption="A white door"),
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
    """Stands for assemble: a version is bound to what quality makes."""

    name = "assemble"
    upstream = ("crawl", "quality")


def judged(config):
    """Open the version that the configuration makes now, judge it, and return it with the verdicts' manifest."""
    version = open_version(config, Store(config.resolve(config.root)), INTERVAL)
    for name in ("crawl", "quality"):
        stage = load_stage(name, config, version)
        for shard in stage.plan():
            stage.run(shard)
        manifest = stage.commit()
    return Store(config.resolve(config.root)), version, manifest


def test_reasons_are_counted_and_rows_show_what_a_person_needs(config):
    store, version, manifest = judged(config)
    found = {one.reason: one for one in list_reasons(store, version)}
    assert {name: (one.rows, one.only_reason) for name, one in found.items()} == {
        "flat": (2, 1),
        "too_small": (2, 1),
        "aspect": (1, 0),
        "not_downloaded": (1, 1),
    }
    assert {name: one.rows for name, one in found.items()} == {
        name.removeprefix("reason."): rows for name, rows in manifest.counters.items() if name.startswith("reason.")
    }
    assert [name for name, one in found.items() if not one.releasable] == ["not_downloaded"]
    page = list_rows(store, version, "flat")
    assert (page.total, [row.uid for row in page.rows]) == (2, [WALL, DOOR])
    assert page.rows[1].reasons == ("too_small", "aspect", "flat")
    assert page.rows[1].caption == "A white door"
    assert (page.rows[1].original_width, page.rows[1].original_height) == (8, 48)
    assert store.exists(page.rows[0].tar.removeprefix(f"{store.root}/"))
    everything = list_rows(store, version, limit=2, offset=2)
    assert (everything.total, [row.uid for row in everything.rows]) == (4, [SMALL, LOST])
    assert everything.rows[1].error_message == "http_404"
    assert not everything.rows[1].releasable


def test_a_released_row_goes_on_in_a_revision_and_taking_it_back_finds_the_first_version_again(config):
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
    # The versions before stand as they were, and are found by their own entries.
    for version, manifest in ((first, before), (second, after), (third, more)):
        assert load_stage("quality", config, version).manifest() == manifest
    withdraw(store, third, reason="flat", note="they are not", by="ben")
    assert judged(config)[1] == second
    withdraw(store, second, uids=[DOOR], note="a window", by="ann")
    assert judged(config)[1] == first
    assert [entry.action for entry in read_releases(store, "given", INTERVAL)] == ["release"] * 2 + ["withdraw"] * 2


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"uids": [LOST]}, "cannot be released: there is no image"),
        ({"uids": [WALL, LOST, "f" * 32]}, "refuses no row f"),
        ({"reason": "not_downloaded"}, "cannot be released: there is no image"),
        ({"reason": "host_cap"}, "no row of 2026-01-01 is refused for host_cap; there are: aspect, flat"),
        ({}, "either uids or a reason"),
        ({"uids": [WALL], "reason": "flat"}, "either uids or a reason"),
        ({"uids": [WALL], "note": "  "}, "needs a note"),
    ],
)
def test_what_cannot_be_released_is_told_and_nothing_is_written(config, what, message):
    store, version, _ = judged(config)
    with pytest.raises(VecapError, match=message):
        release(store, version, **{"note": "why", "by": "ann"} | what)
    assert count_releases(store, "given", INTERVAL) == 0
    with pytest.raises(VecapError, match="is not released"):
        withdraw(store, version, uids=[WALL], note="why", by="ann")


def test_a_refused_version_has_a_quarantine_too(config):
    strict = config.model_copy(
        update={"quality": config.quality.model_validate({"gate": {"min_accepted_rows": 100}})}
    ).with_base(config.base)
    with pytest.raises(GateFailed):
        judged(strict)
    store = Store(config.resolve(config.root))
    version = open_version(strict, store, INTERVAL)
    assert list_rows(store, version).total == 4


def test_a_lost_entry_is_named(config):
    store, version, _ = judged(config)
    name = release(store, version, uids=[WALL], note="why", by="ann")
    _, second, _ = judged(config)
    store.remove(name)
    with pytest.raises(CorruptError, match="has 0 entries, and a version was made with 1"):
        load_stage("quality", config, second).manifest()


def test_by_the_command_line(config, capsys, tmp_path):
    judged(config)
    values = json.loads(config.model_dump_json())
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(values))
    common = ["--config", str(file), "--version", INTERVAL]
    assert cli.main(["quarantine", *common, "--reason", "flat", "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 2 rows refused for flat" in shown
    assert "A white wall" in shown
    assert "A white door" not in shown
    assert cli.main(["quarantine", "release", *common, "--uid", WALL, "--note", "fine", "--by", "ann"]) == 0
    assert "given/_releases/2026-01-01/000001.json" in capsys.readouterr().out
    assert cli.main(["quarantine", "releases", *common, "--json"]) == 0
    assert [entry["by"] for entry in json.loads(capsys.readouterr().out)] == ["ann"]
    assert cli.main(["quarantine", "release", *common, "--uid", LOST, "--note", "fine"]) == 1
    assert "cannot be released" in capsys.readouterr().err
    assert cli.main(["quarantine", *common, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reasons"][0]["reason"] == "flat"
