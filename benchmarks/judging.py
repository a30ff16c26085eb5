"""Cost of quality, and of what rewrite reads, on generated crawls: `python -m benchmarks.scale --judging ROWS …`.

DuckDB generates crawl tables of 10,000 rows, without images. The steps of the stage run in one process each: the rules
about single rows (`prepare`), the rules that compare rows, the verdicts of each shard, and the commit. Then a process
opens the stage rewrite and reads the rows of three shards, as before their first caption. With `--images`, the crawl
has distinct tiny JPEGs, and rewrite (with a model that answers immediately) and assemble run as a whole.
"""

# ruff: noqa: S608 - queries are built from names in this file

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.alttexts import read_texts
from benchmarks.fakes import CONFIG
from benchmarks.report import Measure, machine
from benchmarks.stages import Instant, run_all
from benchmarks.tree import Cost, watching
from vecap_tasks.assemble.stage import Assemble
from vecap_tasks.config import load_config
from vecap_tasks.core.manifest import FileEntry, Manifest
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.core.version import Version
from vecap_tasks.quality.stage import Quality
from vecap_tasks.rewrite.stage import Rewrite

STEPS = {
    "prepare": "rules about single rows",
    "decide": "rules that compare rows",
    "process": "verdicts of the shards",
    "commit": "commit of quality",
    "open": "rewrite opens the version",
}
_READ = "read"  # its cost is of one shard
_WITH_IMAGES = {"rewrite": "rewrite with a model that answers immediately", "assemble": "assemble"}
_SHARD = 10_000  # rows
_PLACEHOLDERS = 20  # images that many rows show


def judging(rows: int, folder: Path | None = None, *, images: bool = False) -> list[Measure]:
    """Measure each step of the stage on a crawl of *rows* rows, with *images* also rewrite and assemble.

    *folder* has the files, and keeps them; by default a temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="vecap-bench-", dir="/var/tmp") as temporary:
        folder = folder / f"{rows}-rows" if folder else Path(temporary)
        if not (folder / "store").exists():
            generate_crawl(rows, folder, images=images)
        measures = []
        steps = STEPS | {_READ: "a shard of rewrite reads its rows"} | (_WITH_IMAGES if images else {})
        for step, name in steps.items():
            command = [sys.executable, "-m", "benchmarks.judging", step, str(folder)]
            result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            cost = json.loads(result.stdout)
            conditions = f"{machine()}, DuckDB {duckdb.__version__}, one process, {_SHARD:,} rows per shard"
            what = f"{rows:,} rows: {name}"
            unit = Measure(f"{what}: CPU per million rows", "s", cost["cpu"] / rows * 1e6, conditions=conditions)
            measures += [
                Measure(f"{what}: CPU", "s", cost["cpu"], conditions=conditions) if step == _READ else unit,
                Measure(f"{what}: wall clock", "s", cost["seconds"]),
                Measure(f"{what}: peak memory", "MiB", cost["memory"] / 2**20, conditions="of the whole process"),
                Measure(f"{what}: temporary files", "MiB", cost["disk"] / 2**20, conditions="largest sum at any time"),
            ]
    return measures


def load_quality(folder: Path) -> Quality:
    """Return the stage whose store is in *folder*."""
    sizes = [f"crawl.shard_size={_SHARD}", f"rewrite.shard_size={_SHARD}"]
    config = load_config(CONFIG, [f"root={folder}/store", *sizes])
    return Quality(config, Version("demo", "2026-01-01", 1, ""))


def generate_crawl(rows: int, folder: Path, *, images: bool = False) -> None:
    """Write the tables and the manifest of a crawl of *rows* rows to the store in *folder*; the tars if *images*.

    A fifth of the rows failed to download, a tenth repeats the previous image, and a hundredth shows a placeholder.
    AltTexts are the labeled texts of the project's tests, most of them with a number.
    """
    crawl = load_quality(folder).upstream_stage("crawl")
    output = folder / "store" / crawl.folder
    output.mkdir(parents=True)
    texts = [text for by_language in map(read_texts, ("tuned", "sealed")) for rows_of in by_language.values()
             for _, text in rows_of]  # fmt: skip
    files = []
    with duckdb.connect(config={"temp_directory": str(folder)}) as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.register("given", pa.table({"text": texts}))
        connection.execute("CREATE TABLE texts AS SELECT list(text) AS texts FROM given")
        for start in range(0, rows, _SHARD):
            name = f"{start // _SHARD:05d}.parquet"
            connection.execute(f"COPY ({_rows(start, rows)}) TO '{output / name}' (COMPRESSION zstd)")
            tar = name.replace(".parquet", ".tar")
            if images:
                _write_images(output / name, output / tar)
            else:
                (output / tar).touch()
            files.append(FileEntry.from_file(output, name, min(_SHARD, rows - start)))
            files.append(FileEntry.from_file(output, tar, None))
        connection.execute(f"COPY ({_duplicates(rows)}) TO '{output / 'duplicates.parquet'}' (COMPRESSION zstd)")
    files.append(FileEntry.from_file(output, "duplicates.parquet", None))
    manifest = Manifest(
        dataset=crawl.config.dataset,
        interval=crawl.version.interval,
        stage="crawl",
        fingerprint=crawl.fingerprint,
        config=crawl.identity(),
        inputs=(),
        files=tuple(files),
        counters={"candidates": rows},
        location=crawl.folder,
        provenance={"created": "2026-01-01T00:00:00+00:00"},
    )
    (output / "manifest.json").write_bytes(manifest.to_json())


def _write_images(table: Path, tar: Path) -> None:
    """Write a tiny JPEG for each image of *table* to *tar*, and its hash to the table. Equal images are equal."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 140, 200)).save(stream, "JPEG")
    start, end = stream.getvalue()[:2], stream.getvalue()[2:]
    rows = pq.read_table(table)
    hashes: list[str | None] = []
    with TarWriter(tar) as writer:
        for key, sha256, status in zip(*map(rows.column, ("key", "sha256", "status")), strict=True):
            if status.as_py() != "success":
                hashes.append(None)
                continue
            jpeg = start + b"\xff\xfe\x00\x42" + sha256.as_py().encode() + end  # a comment of 64 bytes
            hashes.append(hashlib.sha256(jpeg).hexdigest())
            writer.write(key.as_py(), {"jpg": jpeg})
    number = rows.column_names.index("jpeg_sha256")
    pq.write_table(rows.set_column(number, "jpeg_sha256", pa.array(hashes, pa.string())), table, compression="zstd")


def _key(row: str) -> str:
    return f"printf('%05d%04d', {row} // {_SHARD}, {row} % {_SHARD})"


def _rows(start: int, rows: int) -> str:
    """Return SQL for the rows of CRAWL in the shard that begins at row *start*."""
    text = "texts[1 + (hash(i + {}) % len(texts))::BIGINT]"
    hosts = max(100, rows // 200)
    return f"""
        SELECT {_key("i")} AS key, md5(i::VARCHAR) AS uid,
            'https://host' || floor(pow(hash(i) / 18446744073709551616.0, 3) * {hosts})::BIGINT || '.example/images/'
                || md5(i::VARCHAR)[:20] || '.jpg' AS url,
            CASE WHEN hash(i + 1) % 10 = 0 THEN NULL WHEN hash(i + 1) % 20 = 1 THEN 'IMG_' || i || '.jpg'
                WHEN hash(i + 1) % 20 < 5 THEN {text.format(2)} WHEN hash(i + 1) % 20 = 5
                THEN {text.format(2)} || ' &amp; <b>' || i || '</b>'
                ELSE {text.format(2)} || ', ' || {text.format(3)} || ' ' || i END AS caption,
            'https://host' || i % 1000 || '.example/pages/' || i // 7 || '.html' AS page_url,
            {text.format(4)} AS page_title, NULL::VARCHAR AS figcaption,
            ['en', 'de-CH', NULL][1 + (hash(i + 5) % 3)::BIGINT] AS language, 'generated' AS source,
            NULL::VARCHAR AS scores, NULL::VARCHAR AS stored_in, NULL::BIGINT AS stored_at,
            NULL::BIGINT AS stored_bytes, CASE WHEN has THEN 'success' ELSE 'failed_to_download' END AS status,
            CASE WHEN NOT has THEN ['http_404', 'timeout: 30 s', 'robots'][1 + (hash(i + 6) % 3)::BIGINT] END
                AS error_message,
            CASE WHEN has THEN 256::INTEGER END AS width, CASE WHEN has THEN 192::INTEGER END AS height,
            CASE WHEN has THEN (20 + hash(image + 7) % 2000)::INTEGER END AS original_width,
            CASE WHEN has THEN (20 + hash(image + 8) % 1500)::INTEGER END AS original_height,
            'JPEG' AS original_format, 100000::BIGINT AS original_bytes, '{{}}' AS exif,
            CASE WHEN has THEN sha256(image::VARCHAR) END AS sha256,
            CASE WHEN has THEN sha256('jpeg ' || image) END AS jpeg_sha256,
            CASE WHEN has AND image % 1000 != 1 THEN printf('%016x', hash(image)) END AS phash
        FROM (
            SELECT i, i % 5 > 0 AS has, CASE WHEN i % 100 = 51 THEN 51 + 100 * (i // 100 % {_PLACEHOLDERS})
                WHEN i % 10 = 9 THEN i - 1 ELSE i END AS image
            FROM range({start}, {min(start + _SHARD, rows)}) AS generated(i)
        ), texts"""


def _duplicates(rows: int) -> str:
    """Return SQL for DUPLICATES of a crawl of *rows* rows."""
    return f"""
        SELECT {_key("i")} AS key, md5(i::VARCHAR) AS uid, md5(original::VARCHAR) AS duplicate_of, kind,
            0::INTEGER AS distance, NULL::VARCHAR AS version
        FROM (
            SELECT i, i - 1 AS original, 'exact' AS kind FROM range(9, {rows}, 10) AS repeated(i)
            UNION ALL SELECT i, 51 + 100 * (i // 100 % {_PLACEHOLDERS}), 'exact'
            FROM range({51 + 100 * _PLACEHOLDERS}, {rows}, 100) AS placeholders(i)
            UNION ALL SELECT i, i - 1, 'near' FROM range(33, {rows}, 100) AS near(i)
        ) ORDER BY i"""


def run_step(step: str, folder: Path) -> Cost:
    """Run the *step* on the crawl in *folder*, after the earlier ones, and return its cost."""
    stage = load_quality(folder)
    rewrite = Rewrite(stage.config, stage.version)
    if step == _READ:
        return _read(rewrite)
    with watching(stage.store.scratch) as cost:
        if step == "prepare":
            for part in stage.preparations():
                stage.prepare(part)
        elif step == "decide":
            stage.shards()
        elif step == "process":
            for shard in stage.plan():
                stage.run(shard)
        elif step == "commit":
            stage.commit()
        elif step == "open":
            rewrite.shards()
        else:
            run_all((Instant if step == "rewrite" else Assemble)(stage.config, stage.version))
    return cost


def _read(stage: Rewrite) -> Cost:
    """Return the mean cost of the rows of three shards."""
    names = stage.shards()
    picked = [names[len(names) * third // 3] for third in range(3)]
    with watching(stage.store.scratch) as cost:
        for name in picked:
            with stage.store.workspace() as work:
                stage.read_rows(name, work)
    return replace(cost, seconds=cost.seconds / len(picked), cpu=cost.cpu / len(picked))


def main() -> None:
    """Run one step, for `judging`, and print its cost as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=[*STEPS, _READ, *_WITH_IMAGES])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    cost = run_step(arguments.step, arguments.folder)
    print(json.dumps({name: getattr(cost, name) for name in ("seconds", "cpu", "memory", "disk")}))


if __name__ == "__main__":
    main()
