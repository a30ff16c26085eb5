"""Duplicates by bytes and by hash, in this version and in earlier ones."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from benchmarks.photographs import as_jpeg, photograph
from tests.core.factories import flip_bit, recorded
from tests.crawl.conftest import crawl
from tests.crawl.web import Answer
from vecap_tasks.config import DuplicatesConfig
from vecap_tasks.core.intermediate import put_recorded
from vecap_tasks.core.manifest import Manifest, read_manifest
from vecap_tasks.core.schemas import CRAWL, DUPLICATES, HASHES
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version, register
from vecap_tasks.crawl import dedup, hash_index
from vecap_tasks.crawl.dedup import write_duplicates
from vecap_tasks.crawl.hash_index import CrawlTables, PublishedCrawl
from vecap_tasks.crawl.image.decode import phash
from vecap_tasks.crawl.stage import Crawl
from vecap_tasks.errors import CorruptError, VecapError

SITE = "http://site.example/"


def table(rows):
    """Return a crawl of (sha, hash) pairs; a flat image has hash None, a failed row has sha None."""
    records = [
        {
            "key": f"{n:09d}",
            "uid": f"{n:032x}",
            "url": f"{SITE}{n}",
            "source": "web",
            "status": "failed_to_download" if sha is None else "success",
            "sha256": None if sha is None else hashlib.sha256(sha.encode()).hexdigest(),
            "phash": None if value is None else f"{value:016x}",
        }
        for n, (sha, value) in enumerate(rows)
    ]
    return pa.Table.from_pylist(records, schema=CRAWL)


def find_duplicates(folder, rows, earlier=(), **config):
    """Return (row, kept row, kind, distance, version) of the duplicates among *rows*, and the counters."""
    folder.mkdir(exist_ok=True)
    store = Store(str(folder))
    tables = write_tables(store, "now", rows)
    crawls = [
        PublishedCrawl(f"v{number}", f"{number:064d}", write_tables(store, f"old{number}", old))
        for number, old in enumerate(earlier)
    ]
    return search(store, tables, crawls, **config)


def write_tables(store, name, rows, per_table=1_000_000):
    files = []
    for start in range(0, max(1, len(rows)), per_table):
        files.append(f"{name}-{start:05d}.parquet")
        pq.write_table(table(rows).slice(start, per_table), store.path(files[-1]))
    return CrawlTables(tuple(recorded(store, file) for file in files), len(rows))


def search(store, tables, crawls=(), memory="1GB", folder="steps", keep=None, **config):
    """Return duplicates and counters, as `find_duplicates`; move the index to the folder *keep*."""
    with store.workspace() as work:
        found = write_duplicates(store, tables, crawls, DuplicatesConfig(**config), memory, folder, work)
        duplicates = pq.read_table(work / "duplicates.parquet")
        if keep is not None:
            (work / "hashes").rename(keep)
            assert sorted(f"hashes/{path.name}" for path in keep.iterdir()) == list(found.index)
    assert duplicates.schema.equals(DUPLICATES)
    assert len(duplicates) == found.rows == sum(found.counters.values())
    lines = [
        (int(row["key"]), int(row["duplicate_of"], 16), row["kind"], row["distance"], row["version"])
        for row in duplicates.to_pylist()
    ]
    assert [int(row["uid"], 16) for row in duplicates.to_pylist()] == [line[0] for line in lines]
    return lines, found.counters


def test_the_first_of_equal_images_is_kept(tmp_path):
    rows = [("a", None), (None, None), ("b", 1), ("a", None), ("b", 1), ("a", None)]
    lines, counters = find_duplicates(tmp_path, rows)
    assert lines == [(3, 0, "exact", 0, None), (4, 2, "exact", 0, None), (5, 0, "exact", 0, None)]
    assert counters == {"duplicates": 3, "near_duplicates": 0, "earlier_duplicates": 0}


def test_hashes_within_a_few_bits_are_near_duplicates(tmp_path):
    rows = [("a", 0), ("b", 0), ("c", 0b111), ("d", 0b1111), ("e", (1 << 64) - 1), ("f", (1 << 64) - 2), ("g", None)]
    assert find_duplicates(tmp_path, rows)[0] == [
        (1, 0, "near", 0, None),
        (2, 0, "near", 3, None),
        (5, 4, "near", 1, None),
    ]
    assert find_duplicates(tmp_path, rows, near_distance=0)[0] == [(1, 0, "near", 0, None)]
    assert find_duplicates(tmp_path, rows, near_distance=None) == (
        [],
        {"duplicates": 0, "near_duplicates": 0, "earlier_duplicates": 0},
    )


def test_duplicates_refer_only_to_kept_images(tmp_path):
    """In a chain of small changes, an image far from all kept images is kept."""
    rows = [("a", 0), ("b", 0b11), ("c", 0b1111), ("d", 0b111111), ("e", 0b1111)]
    assert find_duplicates(tmp_path, rows, near_distance=2)[0] == [
        (1, 0, "near", 2, None),
        (3, 2, "near", 2, None),
        (4, 2, "near", 0, None),
    ]


def test_exact_duplicates_are_not_near_duplicates(tmp_path):
    rows = [("a", 0), ("b", 1), ("b", 1)]
    assert find_duplicates(tmp_path, rows)[0] == [(1, 0, "near", 1, None), (2, 1, "exact", 0, None)]


def test_earlier_versions_are_searched(tmp_path):
    high, middle = 0xFF << 40, 0xFF << 20
    earlier = [[("x", 0), ("a", high)], [("a", high), ("y", middle), (None, None)]]
    rows = [("a", high), ("b", 0b11), ("c", middle), ("c", middle), ("d", 0xFF << 50), ("e", None)]
    lines, counters = find_duplicates(tmp_path, rows, earlier)
    assert lines == [
        (0, 1, "exact", 0, "v0"),
        (1, 0, "near", 2, "v0"),
        (2, 1, "near", 0, "v1"),
        (3, 2, "exact", 0, None),
        (3, 1, "near", 0, "v1"),
    ]
    assert counters == {"duplicates": 1, "near_duplicates": 0, "earlier_duplicates": 4}


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_no_pair_is_missed(tmp_path, distance):
    """Compare with a brute-force search over hashes, many of them near."""
    rng = np.random.default_rng(distance)
    values = [int(value) for value in rng.integers(0, 1 << 63, 300)]
    for _ in range(700):
        bits = rng.choice(64, rng.integers(1, 6), replace=False)
        values.append(values[rng.integers(len(values))] ^ sum(1 << int(bit) for bit in bits))
    values = list(dict.fromkeys(values))
    kept, expected = [], []
    for n, value in enumerate(values):
        near = [((value ^ values[m]).bit_count(), m) for m in kept]
        best = min((pair for pair in near if pair[0] <= distance), default=None)
        if best is None:
            kept.append(n)
        else:
            expected.append((n, best[1], "near", best[0], None))
    assert len(expected) > 100
    assert find_duplicates(tmp_path, [(str(n), v) for n, v in enumerate(values)], near_distance=distance)[0] == expected


@pytest.mark.timeout(300)
def test_large_buckets_take_less_than_quadratic_time(tmp_path):
    """60,000 hashes share a band; brute force takes 1,800 million comparisons."""
    rng = np.random.default_rng(0)
    values = [int(value) << 16 | 7 for value in np.unique(rng.integers(0, 1 << 47, 60_000))]
    copies = [value ^ (1 << 62) for value in values[:50]]
    rows = [(str(n), value) for n, value in enumerate(values + copies)]
    lines, _ = find_duplicates(tmp_path, rows)
    assert {(n, m) for n, m, *_ in lines} >= {(len(values) + n, n) for n in range(50)}


@pytest.mark.timeout(300)
def test_many_similar_hashes_are_compared_in_limited_time(tmp_path):
    """A cube of bits: in order, each value with an odd number of bits is one bit from a kept one."""
    values = [low | high << 40 for low in range(1 << 9) for high in range(1 << 5)]
    lines, _ = find_duplicates(tmp_path, [(str(n), value) for n, value in enumerate(values)], near_distance=1)
    assert len(lines) == len(values) // 2


def make_versions(seed, sizes):
    """Return rows of several versions with images, hashes and near hashes in common."""
    rng = np.random.default_rng(seed)
    hashes = [int(value) for value in rng.integers(0, 1 << 63, 60)]
    hashes += [hashes[0] ^ int(value) for value in rng.integers(0, 1 << 20, 60)]  # share most bits
    while len(hashes) < 400:
        bits = rng.choice(64, rng.integers(0, 4), replace=False)
        hashes.append(hashes[rng.integers(len(hashes))] ^ sum(1 << int(bit) for bit in bits))
    images = [(f"image {n}", None if n % 29 == 0 else value) for n, value in enumerate(hashes)]
    picks = [rng.integers(0, len(images), size) for size in sizes]
    return [[(None, None) if n % 31 == 0 else images[n] for n in pick] for pick in picks]


def brute_force(rows, earlier, distance):
    """Return what `find_duplicates` returns, from all pairs."""
    old_images, old_points = {}, {}
    for version, old in enumerate(earlier):
        for n, (sha, value) in enumerate(old):
            if sha is not None:
                old_images.setdefault(sha, (n, f"v{version}"))
                old_points.setdefault(value, (version, n))
    old_points.pop(None, None)
    images, points = {}, {}
    for n, (sha, value) in enumerate(rows):
        if sha is not None and images.setdefault(sha, n) == n and value is not None:
            points.setdefault(value, n)
    kept, copies = [], {}
    for value in sorted(points, key=points.__getitem__):
        near = [((value ^ other).bit_count(), points[other]) for other in kept]
        best = min((pair for pair in near if pair[0] <= distance), default=None)
        if best is None:
            kept.append(value)
        else:
            copies[value] = best
    lines = []
    for n, (sha, value) in enumerate(rows):
        if sha is None:
            continue
        if images[sha] != n:
            lines.append((n, images[sha], "exact", 0, None))
        elif value in copies:
            lines.append((n, copies[value][1], "near", copies[value][0], None))
        elif value is not None and points[value] != n:
            lines.append((n, points[value], "near", 0, None))
        if sha in old_images:
            old, version = old_images[sha]
            lines.append((n, old, "exact", 0, version))
        elif value is not None:
            near = [((value ^ other).bit_count(), *origin) for other, origin in old_points.items()]
            best = min((found for found in near if found[0] <= distance), default=None)
            if best is not None:
                lines.append((n, best[2], "near", best[0], f"v{best[1]}"))
    return lines


@pytest.fixture
def small_parts(monkeypatch):
    """Return a function that sets the rows of a part and of a batch, and the hashes in memory."""

    def use(part_rows, batch_rows, hashes):
        monkeypatch.setattr(hash_index, "_PART_ROWS", part_rows)
        monkeypatch.setattr(hash_index, "_BATCH_ROWS", batch_rows)
        monkeypatch.setattr(dedup, "_MIN_HASHES", hashes)
        monkeypatch.setattr(dedup, "BYTES_PER_HASH", 1 << 50)

    return use


def test_results_are_those_of_brute_force_for_all_numbers_of_parts(tmp_path, small_parts):
    *earlier, rows = make_versions(3, (300, 50, 500))
    expected = brute_force(rows, earlier, 3)
    assert {(kind, version) for _, _, kind, _, version in expected} >= {
        ("exact", None), ("near", None), ("exact", "v0"), ("near", "v0"), ("exact", "v1"),
    }  # fmt: skip
    store = Store(str(tmp_path))
    tables = write_tables(store, "now", rows, 60)
    old = [write_tables(store, f"old{number}", items, 70) for number, items in enumerate(earlier)]
    crawls = [PublishedCrawl(f"v{number}", f"{number:064d}", old_tables) for number, old_tables in enumerate(old)]
    indexed = {}
    for case, sizes in enumerate([(1 << 21, 1 << 20, 10_000), (100, 130, 90)]):
        small_parts(*sizes)
        indexed[case] = [add_index(store, crawl, f"index-{case}-{crawl.version}") for crawl in crawls]
        mixed = [indexed[case][0], crawls[1]]
        assert search(store, tables, mixed, folder=f"mixed-{case}")[0] == expected
    small_parts(25, 60, 150)  # other numbers of parts than the indexes have
    assert search(store, tables, [indexed[0][0], indexed[1][1]], folder="other")[0] == expected


def add_index(store, crawl, name):
    """Return *crawl* with an index in the folder *name* of the store."""
    folder = Path(store.path(name))
    search(store, crawl.tables, keep=folder, folder=f"steps-{name}", near_distance=None)
    return replace(crawl, index=tuple(recorded(store, f"{name}/{path.name}") for path in sorted(folder.iterdir())))


def test_the_index_depends_only_on_the_rows(tmp_path, small_parts):
    (rows,) = make_versions(7, (500,))
    store = Store(str(tmp_path))
    contents = []
    for number, (batch_rows, hashes, memory) in enumerate([(1000, 10_000, "1GB"), (60, 90, "200MB")]):
        small_parts(120, batch_rows, hashes)
        folder = tmp_path / f"index-{number}"
        search(store, write_tables(store, f"now{number}", rows, 50), keep=folder, folder=f"{number}", memory=memory)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 8
    tables = [pq.read_table(io.BytesIO(data)).cast(HASHES) for _, data in sorted(contents[0].items())]
    index = pa.concat_tables(tables)
    images = {hashlib.sha256(sha.encode()).hexdigest(): value for sha, value in rows if sha is not None}
    assert dict(zip(index["sha256"].to_pylist(), index["phash"].to_pylist(), strict=True)) == images
    assert index["sha256"].to_pylist() == sorted(images)


def test_a_killed_search_repeats_only_the_unfinished_step(tmp_path, small_parts, monkeypatch):
    small_parts(200, 130, 200)
    *earlier, rows = make_versions(5, (200, 300))
    store = Store(str(tmp_path))
    tables = write_tables(store, "now", rows, 60)
    crawls = [PublishedCrawl("v0", "0" * 64, write_tables(store, "old", earlier[0], 60))]
    written = []

    def put(where, name, path):
        if len(written) in kills:
            kills.remove(len(written))
            raise KeyboardInterrupt
        written.append(name)
        put_recorded(where, name, path)

    monkeypatch.setattr(hash_index, "put_recorded", put)
    kills = set()
    expected = search(store, tables, crawls, folder="whole")
    total = len(written)
    written.clear()
    kills = {0, total // 3, total // 2, total - 1}
    for _ in range(len(kills)):
        with pytest.raises(KeyboardInterrupt):
            search(store, tables, crawls, folder="killed")
    assert search(store, tables, crawls, folder="killed") == expected
    assert len(written) == len(set(written)) == total
    assert expected[0] == brute_force(rows, earlier, 3)


def test_a_corrupt_step_is_made_again(tmp_path, small_parts):
    small_parts(100, 130, 90)
    (rows,) = make_versions(6, (300,))
    store = Store(str(tmp_path))
    tables = write_tables(store, "now", rows, 60)
    expected = search(store, tables)
    (folder,) = store.folders("steps")
    flip_bit(store, f"steps/{folder}/points-0001.parquet")
    with pytest.raises(VecapError, match=r"points-0001.parquet .*removed, run the same command again"):
        search(store, tables)
    assert search(store, tables) == expected


def test_the_hash_survives_recompression_scaling_and_filters():
    for number in range(6):
        original = photograph(number, (640, 480))
        value = int(phash(np.asarray(original)), 16)
        for variant in (
            Image.open(io.BytesIO(as_jpeg(original, 40))),
            original.resize((300, 225)),
            original.filter(ImageFilter.GaussianBlur(1)),
            original.point(lambda level: min(255, level + 8)),
        ):
            assert (int(phash(np.asarray(variant.convert("RGB"))), 16) ^ value).bit_count() <= 6
        assert (int(phash(np.asarray(photograph(number + 100, (640, 480)))), 16) ^ value).bit_count() > 10


def test_flat_images_have_no_hash():
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).convert("RGB")
    grain = Image.fromarray(np.random.default_rng(0).normal(128, 4, (256, 256, 3)).clip(0, 255).astype(np.uint8))
    for flat in (Image.new("RGB", (256, 256), (12, 90, 200)), Image.new("RGB", (1, 1)), ramp, grain):
        assert phash(np.asarray(flat)) is None


def test_the_manifest_lists_the_earlier_versions_searched(web, configure, seeds):
    """Unpublished versions and those of the same interval are not searched."""
    web.page("/", "<img src=a.jpg alt=one><img src=b.jpg alt=two>")
    web.answers["/a.jpg"] = Answer(as_jpeg(photograph(1, (320, 240))))
    web.answers["/b.jpg"] = Answer(as_jpeg(photograph(2, (320, 240))))
    config = configure(seeds(SITE))
    store = Store(config.resolve(config.root))
    first = run_crawl(store, config, "2026-01-01")
    assert first.counters["earlier_duplicates"] == 0
    web.page("/", "<img src=a.jpg alt=one><img src=c.jpg alt=three>")
    web.answers["/c.jpg"] = Answer(as_jpeg(photograph(2, (320, 240)), 60))
    with_earlier = configure(seeds(SITE), duplicates={"earlier": True})
    unpublished = run_crawl(store, with_earlier, "2026-01-02")
    assert unpublished.counters["earlier_duplicates"] == 0
    assert [item.kind for item in unpublished.inputs] == ["source"]
    publish(store, config, "2026-01-01")
    off = run_crawl(store, config, "2026-01-03")
    assert off.counters["earlier_duplicates"] == 0
    on = run_crawl(store, with_earlier, "2026-01-04")
    assert [(item.kind, item.name, item.digest) for item in on.inputs[1:]] == [("version", "2026-01-01", first.digest)]
    lines = pq.read_table(store.path(on.file("duplicates.parquet"))).to_pylist()
    assert [(row["kind"], row["version"]) for row in lines] == [("exact", "2026-01-01"), ("near", "2026-01-01")]
    check_what_is_read(store, with_earlier, first, on)


def check_what_is_read(store, config, first, on):
    """The index of the crawl *first* is read, or without one its tables; both give the crawl *on*."""
    table, manifest = first.file("00000.parquet"), f"{first.location}/manifest.json"
    (index,) = (f"{first.location}/{entry.path}" for entry in first.attachments)
    stored = store.read(table)
    flip_bit(store, table)  # not read
    assert run_crawl(store, config, "2026-01-05").counters == on.counters
    flip_bit(store, index)
    with pytest.raises(CorruptError, match=r"hashes/0000-of-0001.parquet is corrupt.*crawl.duplicates.earlier"):
        run_crawl(store, config, "2026-01-06")
    store.put(manifest, replace(first, attachments=()).to_json())  # as of an earlier release
    with pytest.raises(CorruptError, match=r"00000.parquet is corrupt.*crawl.duplicates.earlier"):
        run_crawl(store, config, "2026-01-07")
    store.put(table, stored)
    assert read_manifest(store, first.location).digest == first.digest
    assert run_crawl(store, config, "2026-01-08").counters == on.counters


def run_crawl(store, config, interval):
    fingerprint = f"{interval}-{config.crawl.duplicates.earlier}"
    version = register(store, config.dataset, interval, fingerprint, {})
    stage = Crawl(config, version)
    for shard in stage.plan():
        stage.run(shard)
    return stage.commit()


def publish(store, config, interval):
    version = Version(config.dataset, interval, 1, "")
    manifest = Manifest(config.dataset, interval, "assemble", "f" * 64, {}, (), (), {})
    assert store.create(f"{version.folder}/assemble/manifest.json", manifest.to_json())


def test_the_hash_is_in_the_table(web, configure, seeds):
    web.page("/", "<img src=a.jpg alt=one><img src=b.png alt=flat>")
    web.answers["/a.jpg"] = Answer(as_jpeg(photograph(1, (320, 240))))
    web.image("/b.png")
    stage, manifest = crawl(configure(seeds(SITE)))
    rows = pq.read_table(stage.store.path(manifest.file("00000.parquet"))).to_pylist()
    assert rows[1]["phash"] is None
    assert len(rows[0]["phash"]) == 16
    assert int(rows[0]["phash"], 16).bit_count() == 32
