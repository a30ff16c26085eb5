"""Test data for captioning: a crawl of drawn scenes with verdicts, as the crawl and quality stages write them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from random import Random

import pyarrow as pa

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import FileEntry, Manifest
from vecap_tasks.core.schemas import CRAWL, VERDICTS
from vecap_tasks.core.stage import Stage, load_stage
from vecap_tasks.core.tables import write_rows
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.core.version import Version
from vecap_tasks.demo.draw import draw
from vecap_tasks.demo.scene import sample_scene

SIDE = 256  # pixels, as the crawl stores


def scenes(count: int, seed: int = 2026) -> list[bytes]:
    """Return *count* drawn scenes, held out from the training of the demo's models, as JPEGs."""
    rng = Random(seed)
    images = []
    for _ in range(count):
        stream = io.BytesIO()
        draw(sample_scene(rng, "eval"), SIDE).save(stream, "JPEG", quality=95)
        images.append(stream.getvalue())
    return images


def write_dataset(config: Config, name: str, images: Sequence[bytes], alttexts: Sequence[str]) -> Version:
    """Write crawl and quality of the version *name*: one accepted row for each of *images*.

    The shards of the crawl have the size of those of the rewrite stage.
    """
    version = Version(config.dataset, name, 1, "")
    crawl, quality = load_stage("crawl", config, version), load_stage("quality", config, version)
    size = config.rewrite.shard_size
    rows = [
        {
            "key": f"{number // size:05d}{number % size:05d}",
            "uid": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        for number, data in enumerate(images)
    ]
    crawled = [row | {"url": "https://a.example/", "source": "drawn", "status": "success"} for row in rows]
    verdicts = [
        row | {"accepted": True, "alttext": alttext, "reasons": []} for row, alttext in zip(rows, alttexts, strict=True)
    ]
    with crawl.store.workspace() as work:
        shards: list[str] = []
        accepted: dict[str, int] = {}
        (work / "verdicts").mkdir()
        for start in range(0, len(rows), size):
            shard, part = f"{start // size:05d}", slice(start, start + size)
            with TarWriter(work / f"{shard}.tar") as tar:
                for row, data in zip(rows[part], images[part], strict=True):
                    tar.write(row["key"], {"jpg": data, "txt": b"", "json": b"{}"})
            write_rows(pa.Table.from_pylist(crawled[part], CRAWL).to_batches(), CRAWL, work / f"{shard}.parquet")
            judged = pa.Table.from_pylist(verdicts[part], VERDICTS)
            accepted[shard] = write_rows(judged.to_batches(), VERDICTS, work / "verdicts" / f"{shard}.parquet")
            shards += [f"{shard}.parquet", f"{shard}.tar"]
        (work / "accepted.json").write_text(json.dumps(accepted), encoding="utf-8")
        names_of_verdicts = [f"verdicts/{shard}.parquet" for shard in accepted]
        for stage, names in ((crawl, shards), (quality, ["accepted.json", *names_of_verdicts])):
            files = []
            for file in names:
                data = (work / file).read_bytes()
                files.append(FileEntry(file, len(data), None, hashlib.sha256(data).hexdigest()))
                stage.store.put(f"{stage.folder}/{file}", data)
            _commit(stage, files, len(rows))
    crawl.store.put(f"{version.folder}/version.json", json.dumps(asdict(version) | {"config": {}}).encode())
    return version


def _commit(stage: Stage, files: Sequence[FileEntry], rows: int) -> None:
    manifest = Manifest(
        dataset=stage.config.dataset,
        interval=stage.version.interval,
        stage=stage.name,
        fingerprint=stage.fingerprint,
        config=stage.identity(),
        inputs=(),
        files=tuple(files),
        counters={"rows": rows, "accepted": rows},
        location=stage.folder,
    )
    stage.store.put(f"{stage.folder}/manifest.json", manifest.to_json())
