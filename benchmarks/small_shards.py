"""A crawl of shards of four rows with verdicts, as the crawl and quality stages write them, for the orchestration."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import FileEntry, Manifest
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.schemas import CRAWL, VERDICTS
from vecap_tasks.core.stage import Stage, load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import write_rows
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.core.version import Version

ROWS = 4  # per shard
_SIDE = 64  # pixels


def write_version(config: Config, interval: str, shards: int) -> Version:
    """Register a version of *interval* with *shards* shards of `ROWS` accepted rows, as two finished stages.

    The root must be a folder. Files are written in place and without `fsync`: nothing else reads them yet.
    """
    store = Store(config.resolve(config.root))
    version = open_version(config, store, interval)
    crawl, quality = load_stage("crawl", config, version), load_stage("quality", config, version)
    crawl_folder, quality_folder = Path(store.path(crawl.folder)), Path(store.path(quality.folder))
    crawl_folder.mkdir(parents=True)
    (quality_folder / "verdicts").mkdir(parents=True)
    crawled: list[FileEntry] = []
    judged: list[FileEntry] = []
    for number in range(shards):
        shard = f"{number:05d}"
        rows = _write_shard(crawl_folder, shard, interval)
        crawled += [FileEntry.from_file(crawl_folder, f"{shard}.{kind}", ROWS) for kind in ("parquet", "tar")]
        verdicts = [row | {"accepted": True, "alttext": row["caption"], "reasons": []} for row in rows]
        table = pa.Table.from_pylist(verdicts, VERDICTS)
        write_rows(table.to_batches(), VERDICTS, quality_folder / "verdicts" / f"{shard}.parquet")
        judged.append(FileEntry.from_file(quality_folder, f"verdicts/{shard}.parquet", ROWS))
    accepted = {f"{number:05d}": ROWS for number in range(shards)}
    (quality_folder / "accepted.json").write_text(json.dumps(accepted), encoding="utf-8")
    judged.append(FileEntry.from_file(quality_folder, "accepted.json", None))
    rows_in_total = shards * ROWS
    _commit(crawl, crawled, {"candidates": rows_in_total, "success": rows_in_total})
    _commit(quality, judged, {"rows": rows_in_total, "accepted": rows_in_total})
    return version


def _write_shard(folder: Path, shard: str, interval: str) -> list[dict[str, Any]]:
    """Write the table and the tar of a crawl shard, and return its rows. Images differ between rows and versions."""
    rows = []
    with TarWriter(folder / f"{shard}.tar") as tar:
        for number in range(ROWS):
            key = f"{shard}{number:04d}"
            image = _image(f"{interval} {key}")
            sha256 = hashlib.sha256(image).hexdigest()
            url = f"https://host{int(shard) % 97}.example/{sha256[:20]}.jpg"
            text = f"A Belvo tulip in garden {int(key)}"
            rows.append(
                {"key": key, "uid": sha256[:32], "url": url, "caption": text, "source": "generated"}
                | {"status": "success", "width": _SIDE, "height": _SIDE, "original_width": _SIDE}
                | {"original_height": _SIDE, "original_format": "JPEG", "original_bytes": len(image), "exif": "{}"}
                | {"sha256": sha256, "jpeg_sha256": sha256, "phash": sha256[:16]}
            )
            tar.write(key, {"jpg": image, "txt": text.encode(), "json": b"{}"})
    write_rows(pa.Table.from_pylist(rows, CRAWL).to_batches(), CRAWL, folder / f"{shard}.parquet")
    return rows


def _image(seed: str) -> bytes:
    """Return a JPEG of one color, with *seed* as its comment."""
    digest = hashlib.sha256(seed.encode()).digest()
    stream = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), tuple(digest[:3])).save(stream, "JPEG", comment=seed.encode())
    return stream.getvalue()


def _commit(stage: Stage, files: list[FileEntry], counters: dict[str, int]) -> None:
    manifest = Manifest(
        dataset=stage.config.dataset,
        interval=stage.version.interval,
        stage=stage.name,
        fingerprint=stage.fingerprint,
        config=stage.identity(),
        inputs=(),
        files=tuple(sorted(files, key=lambda file: file.path)),
        counters=counters,
        location=stage.folder,
        provenance={"created": "2026-01-01T00:00:00+00:00"},
    )
    stage.store.put(f"{stage.folder}/manifest.json", manifest.to_json())
