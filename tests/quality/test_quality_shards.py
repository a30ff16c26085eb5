"""Verdicts per crawl shard equal the verdicts on the whole crawl, and intermediate files are checked."""

import json
import random
from dataclasses import asdict

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.core.factories import flip_bit
from tests.quality.factories import INTERVAL, configure, crawled, judge, run, stage, use_given
from vecap_tasks.core.releases import Entry, Released, add_release
from vecap_tasks.core.schemas import CRAWL, DUPLICATES, VERDICTS
from vecap_tasks.errors import CorruptError, VecapError
from vecap_tasks.quality import stage as quality_stage
from vecap_tasks.quality.group_rules import quantiles

RULES = {
    "max_same_alttext": 5,
    "max_alttexts_per_image": 2,
    "max_host_rows": 1,
    "reject_near_duplicates": True,
    "require_alttext": True,
    "scores": {"beauty": {"top_fraction": 0.9, "keep_missing": True}},
}
SHARDS, ROWS = 5, 40


@pytest.fixture(autouse=True)
def _prepared_stages(monkeypatch):
    use_given(monkeypatch)


def random_crawl(seed):
    """Return rows and duplicates in which every rule that compares rows fires, also across shards."""
    chance = random.Random(seed)
    count = SHARDS * ROWS
    texts = [f"A {word} by the river {n % 11}" for n, word in enumerate(("heron", "boat", "castle", "beagle") * 15)]
    rows = crawled([chance.choice([*texts, None, "image"]) for _ in range(count)])
    for number, row in enumerate(rows):
        shown = chance.randrange(count // 3)
        row |= {
            "key": f"{number // ROWS:05d}{number % ROWS:04d}",
            "url": f"http://{chance.choice('abcd')}.example/{number}",
        }
        row |= {"sha256": f"{shown:064x}", "phash": f"{shown:016x}", "scores": json.dumps({"beauty": chance.random()})}
        if chance.random() < 0.1:
            row |= {"status": "failed_to_download", "error_message": "http_404", "sha256": None, "phash": None}
    found, first = [], {}
    for row in (row for row in rows if row["status"] == "success"):
        kept = first.setdefault(row["sha256"], row["uid"])
        if kept != row["uid"]:
            found.append({"key": row["key"], "uid": row["uid"], "duplicate_of": kept, "kind": "exact", "distance": 0})
        elif len(first) % 7 == 0:
            other = next(iter(first.values()))
            found.append({"key": row["key"], "uid": row["uid"], "duplicate_of": other, "kind": "near", "distance": 2})
    return rows, found


def give(folder, rows, duplicates):
    output = folder / "given" / "crawl"
    output.mkdir(parents=True)
    for shard in range(SHARDS):
        part = pa.Table.from_pylist(rows[shard * ROWS : (shard + 1) * ROWS], schema=CRAWL)
        pq.write_table(part, output / f"{shard:05d}.parquet")
    pq.write_table(pa.Table.from_pylist(duplicates, schema=DUPLICATES), output / "duplicates.parquet")
    (folder / "given" / "crawl.json").write_text(json.dumps({"candidates": len(rows)}))


def prepared(folder, seed=0, **sections):
    config = configure(folder, **sections)
    rows, duplicates = random_crawl(seed)
    give(folder, rows, duplicates)
    run("crawl", config)
    return config, rows, duplicates


def verdicts_of(quality, shard):
    return pq.read_table(quality.store.path(f"{quality.folder}/verdicts/{shard}.parquet")).to_pylist()


@pytest.mark.parametrize("seed", range(3))
def test_verdicts_by_shard_equal_those_on_the_whole_crawl(tmp_path, seed):
    config, rows, duplicates = prepared(tmp_path, seed, quality={"rows": RULES})
    quality = stage("quality", config)
    uids = tuple(sorted(row["uid"] for row in rows[:60:3]))
    for released in ({"uids": uids, "reason": None}, {"uids": (), "reason": "placeholder"}):
        entry = Entry("release", INTERVAL, INTERVAL, **released, note="why", by="ann", at="2026-01-01T00:00:00+00:00")
        add_release(quality.store, config.dataset, entry)
    body = asdict(quality.version) | {"config": {"releases": 2}}
    quality.store.put(f"{quality.version.folder}/version.json", json.dumps(body).encode())
    expected = judge(rows, duplicates, Released(uids, ("placeholder",)), rows=RULES)
    for shard in quality.plan():
        quality.run(shard)
    found = [row for shard in quality.shards() for row in verdicts_of(quality, shard)]
    assert found == [{name: row[name] for name in VERDICTS.names} for row in expected]
    reasons = {reason for row in found for reason in row["reasons"]}
    assert reasons >= {"no_alttext", "duplicate_image", "near_duplicate", "host_cap", "score:beauty"}
    assert {reason for row in found for reason in row["released"] or ()} >= {"placeholder", "duplicate_image"}
    assert "repeated" in {row["alttext_problem"] for row in found}


def test_the_order_of_parts_and_a_restart_between_any_two_do_not_change_the_files(tmp_path):
    config, *_ = prepared(tmp_path, quality={"rows": RULES, "gate": {"min_accepted_share": 0}})
    expected = run("quality", config).files
    other = config.model_copy(update={"root": str(tmp_path / "other")}).with_base(config.base)
    run("crawl", other)
    for part in reversed(stage("quality", other).pending_preparations()):
        stage("quality", other).prepare(part)
    for shard in reversed(stage("quality", other).plan()):
        stage("quality", other).run(shard)
    manifest = stage("quality", other).commit()
    assert manifest.files == expected
    accepted = json.loads(stage("quality", other).store.read(manifest.file("accepted.json")))
    assert sum(accepted.values()) == manifest.counters["accepted"]
    assert list(accepted) == [f"{shard:05d}" for shard in range(SHARDS)]


@pytest.mark.parametrize(
    ("rows", "shards", "judged_before", "parts"),
    [
        (2 * ROWS, 100, None, ["00000-00001", "00002-00003", "00004"]),
        (5 * ROWS, 4, None, ["00000-00003", "00004"]),
        (5 * ROWS, 100, "00002", ["00000-00001", "00003-00004"]),
    ],
)
def test_the_size_of_parts_does_not_change_the_judged_rows(tmp_path, monkeypatch, rows, shards, judged_before, parts):
    """All later files are computed from these. `judged_before` is judged before the parts are named."""
    config, *_ = prepared(tmp_path, quality={"rows": RULES})
    quality = stage("quality", config)
    names = [f"{shard:05d}" for shard in range(SHARDS)]
    for name in names:
        quality.prepare(name)
    assert quality.preparations() == []
    expected = {name: judged_rows(quality, name) for name in names}
    for name in set(names) - {judged_before}:
        quality.store.remove(f"{quality.folder}/_judged/{name}.parquet")
        quality.store.remove(f"{quality.folder}/_judged/{name}.parquet.json")
    monkeypatch.setattr(quality_stage, "_PART_ROWS", rows)
    monkeypatch.setattr(quality_stage, "_PART_SHARDS", shards)
    assert quality.preparations() == parts
    for part in reversed(parts):
        quality.prepare(part)
    assert quality.preparations() == []
    assert {name: judged_rows(quality, name) for name in names} == expected


def judged_rows(quality, shard):
    path = quality.store.path(f"{quality.folder}/_judged/{shard}.parquet")
    return sorted(pq.read_table(path).to_pylist(), key=lambda row: row["key"])


def test_a_part_of_several_shards_names_a_corrupt_one(tmp_path):
    config, *_ = prepared(tmp_path, quality={"rows": RULES})
    quality = stage("quality", config)
    flip_bit(quality.store, f"{quality.version.folder}/crawl/00003.parquet")
    (part,) = quality.preparations()
    with pytest.raises(CorruptError, match=r"crawl/00003\.parquet is corrupt"):
        quality.prepare(part)
    assert quality.preparations() == [part]


@pytest.mark.parametrize("seed", range(3))
def test_quantiles_equal_those_of_duckdb(seed):
    chance = random.Random(seed)
    with duckdb.connect() as connection:
        for count in (1, 2, 19, 20, 21, 1000):
            values = [chance.choice([None, chance.randrange(20), chance.random()]) for _ in range(count)]
            connection.register("given", pa.table({"value": pa.array(values, pa.float64())}))
            counts = "SELECT value, count(*) AS rows FROM given GROUP BY 1"
            for fraction in ("0.05", "0.5", "0.95", "0.3", "1.0", "1e-05", "0.123456789"):
                query = f"SELECT quantile_disc(value, {fraction}) FROM given"
                ((expected,),) = connection.execute(query).fetchall()
                assert quantiles(connection, counts, [fraction]) == [expected]


@pytest.mark.parametrize("name", ["_judged/00001.parquet", "_decided/00001.parquet", "_decided/measures.json"])
def test_a_corrupt_intermediate_file_is_named_and_made_again(tmp_path, name):
    config, *_ = prepared(tmp_path, quality={"rows": RULES, "gate": {"min_accepted_share": 0}})
    expected = run("quality", config).files
    quality = stage("quality", config)
    for shard in quality.finished():
        quality.store.remove(f"{quality.folder}/_shards/{shard}.json")
    quality.store.remove(f"{quality.folder}/manifest.json")
    flip_bit(quality.store, f"{quality.folder}/{name}")
    with pytest.raises(VecapError, match=rf"{name} is corrupt"):
        run("quality", config)
    assert stage("quality", config).manifest() is None
    assert run("quality", config).files == expected


def test_a_shard_reads_only_its_own_crawl_shard(tmp_path):
    config, *_ = prepared(tmp_path, quality={"rows": RULES})
    quality = stage("quality", config)
    crawl = f"{quality.version.folder}/crawl"
    flip_bit(quality.store, f"{crawl}/00003.parquet")
    quality.prepare("00001")
    with pytest.raises(
        CorruptError, match=rf"^{crawl}/00003\.parquet is corrupt: .*; restore it, or delete {crawl} and run"
    ):
        quality.prepare("00003")
