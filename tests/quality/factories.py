"""Factories for versions with a crawl and captions from prepared files: real tables, tars, receipts and manifests."""

import io
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vecap_tasks.config import Config, QualityConfig, parse_config
from vecap_tasks.core import stage as core_stage
from vecap_tasks.core.manifest import ShardOutput
from vecap_tasks.core.releases import Released
from vecap_tasks.core.schemas import CAPTIONS, CRAWL, DUPLICATES, SCORES
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.core.version import Version
from vecap_tasks.quality.verdicts import compute_verdicts

INTERVAL = "2026-01-01"


class Given(Stage):
    """Publishes the files in `given/<name>` next to the configuration."""

    on_workers = False

    def identity(self) -> dict[str, Any]:
        return {}

    def shards(self) -> list[str]:
        return ["given"]

    def process(self, shard: str, work: Path) -> ShardOutput:
        files: dict[str, int | None] = {}
        for path in sorted((self.config.base / "given" / self.name).iterdir()):
            shutil.copy(path, work / path.name)
            files[path.name] = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
        counters = self.config.base / "given" / f"{self.name}.json"
        return ShardOutput(files, json.loads(counters.read_text()))


class GivenCrawl(Given):
    name = "crawl"


class GivenRewrite(Given):
    name = "rewrite"
    upstream = ("crawl", "quality")


@dataclass(frozen=True)
class Row:
    """A crawled row; rows with the same `image` number have the same image bytes."""

    caption: str | None = "A beagle in the snow"
    image: int | None = None
    status: str = "success"
    language: str | None = None
    error_message: str | None = None
    original_width: int = 64
    original_height: int = 48
    flat: bool = False
    scores: str | None = None


def configure(folder: Path, **sections: Any) -> Config:
    """Return a configuration with its store in *folder*; *sections* override top-level keys."""
    model = {"model": "none", "prompt": "none"}
    values: dict[str, Any] = {
        "dataset": "given",
        "root": str(folder / "store"),
        "crawl": {"source": {"kind": "warc", "paths": ["none"]}},
        "rewrite": {"vlm": model, "llm": model},
        "train": {"model": {"tokenizer": "none"}},
        "evaluate": {"dataset": "none"},
    }
    return parse_config(values | sections, folder)


def use_given(monkeypatch: Any) -> None:
    """Replace the stages crawl and rewrite by stages that publish prepared files."""
    for kind in (GivenCrawl, GivenRewrite):
        monkeypatch.setitem(core_stage.STAGES, kind.name, f"{kind.__module__}:{kind.__name__}")


def stage(name: str, config: Config) -> Stage:
    return core_stage.load_stage(name, config, Version(config.dataset, INTERVAL, 1, ""))


def run(name: str, config: Config) -> Any:
    """Run the stage in this process and return its manifest."""
    loaded = stage(name, config)
    for shard in loaded.plan():
        loaded.run(shard)
    return loaded.commit()


def give_crawl(
    folder: Path,
    rows: Sequence[Row],
    shard_size: int = 10,
    *,
    hashed: bool = False,
    images: Sequence[bytes] | None = None,
) -> pa.Table:
    """Write *rows* as the files of a crawl, with duplicates by bytes, and return all rows as a table.

    *hashed*: with `jpeg_sha256`, which release 0.1.0 did not write. *images* are JPEGs by number, by default pictures.
    """
    output = folder / "given" / "crawl"
    output.mkdir(parents=True)
    kept: dict[str, str] = {}
    duplicates = []
    tables = []
    for number, start in enumerate(range(0, len(rows), shard_size)):
        entries = []
        with TarWriter(output / f"{number:05d}.tar") as tar:
            for offset, row in enumerate(rows[start : start + shard_size]):
                key, index = f"{number:05d}{offset:04d}", start + offset
                entry = _entry(key, index, row)
                entries.append(entry)
                if row.status != "success":
                    continue
                image = index if row.image is None else row.image
                data = picture(image) if images is None else images[image]
                entry |= {"sha256": sha256(data).hexdigest()}
                if hashed:
                    entry |= {"jpeg_sha256": entry["sha256"]}
                tar.write(key, {"jpg": data, "txt": (row.caption or "").encode(), "json": json.dumps(entry).encode()})
                first = kept.setdefault(entry["sha256"], entry["uid"])
                if first != entry["uid"]:
                    duplicates.append(
                        {"key": key, "uid": entry["uid"], "duplicate_of": first, "kind": "exact", "distance": 0}
                    )
        tables.append(pa.Table.from_pylist(entries, schema=CRAWL))
        pq.write_table(tables[-1], output / f"{number:05d}.parquet")
    pq.write_table(pa.Table.from_pylist(duplicates, schema=DUPLICATES), output / "duplicates.parquet")
    table = pa.concat_tables(tables) if tables else CRAWL.empty_table()
    statuses = Counter(table["status"].to_pylist())
    counters = {"candidates": len(table), "duplicates": len(duplicates), **statuses}
    (folder / "given" / "crawl.json").write_text(json.dumps(counters))
    return table


def crawled(captions: Sequence[str | None], **columns: Sequence[Any]) -> list[dict[str, Any]]:
    """Return downloaded rows of CRAWL with these AltTexts and distinct images; *columns* override values."""
    rows = [
        {"key": f"{n:09d}", "uid": f"{n:032x}", "url": "http://a.example/", "caption": caption, "source": "w"}
        | {"status": "success", "original_width": 64, "original_height": 64}
        | {"sha256": f"{n:064x}", "phash": f"{n:016x}"}
        for n, caption in enumerate(captions)
    ]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def judge(
    crawl: Sequence[dict[str, Any]],
    duplicates: Sequence[dict[str, Any]] = (),
    released: Released | None = None,
    scores: pa.Table | None = None,
    **config: Any,
) -> list[dict[str, Any]]:
    """Return the verdicts on *crawl* (rows of CRAWL), in order, with *config* as section `quality`."""
    with TemporaryDirectory() as work, duckdb.connect() as connection:
        connection.register("crawl", pa.Table.from_pylist(crawl, schema=CRAWL))
        connection.register("duplicates", pa.Table.from_pylist(duplicates, schema=DUPLICATES))
        connection.register("scores", scores if scores is not None else SCORES.empty_table())
        compute_verdicts(connection, QualityConfig.model_validate(config), Path(work), released)
        return connection.sql("SELECT * FROM verdicts ORDER BY key").to_arrow_table().to_pylist()


def _entry(key: str, index: int, row: Row) -> dict[str, Any]:
    entry = {name: value for name, value in asdict(row).items() if name in CRAWL.names}
    url = f"https://host{index % 3}.example/{index}.jpg"
    entry |= {"key": key, "uid": f"{index:032x}", "url": url, "source": "web"}
    if row.status == "success":
        entry |= {"width": 64, "height": 48, "original_format": "PNG", "original_bytes": 9, "exif": "{}"}
        entry |= {"phash": None if row.flat else f"{index if row.image is None else row.image:016x}"}
    return entry


def picture(number: int) -> bytes:
    """Return a JPEG of 64×48 pixels, distinct for each *number*."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), (number % 256, number // 256, 90)).save(stream, "JPEG", quality=95, comment=str(number))
    return stream.getvalue()


def give_captions(
    config: Config, without: Sequence[str] = (), only_alttext: Sequence[str] = (), variants: int = 0
) -> pa.Table:
    """Write captions of the accepted rows: none for the uids in *without*, no VeC for *only_alttext*.

    With *variants*, each text has that number of variants, of which the second is rejected, and the AltText is
    rewritten.
    """
    output = config.base / "given" / "rewrite"
    output.mkdir(parents=True)
    quality = stage("quality", config)
    verdicts = pq.read_table(quality.store.path(f"{quality.folder}/verdicts")).to_pylist()
    captions = []
    for row in (row for row in verdicts if row["accepted"]):
        vec = None if row["uid"] in (*without, *only_alttext) else f"a picture numbered {int(row['uid'], 16)}"
        vecap = None if row["uid"] in without else row["alttext"] if vec is None else f"{row['alttext'] or ''} {vec}"
        origin = "none" if vecap is None else "alttext" if vec is None else "llm" if row["alttext"] else "vec"
        caption = {name: row[name] for name in ("key", "uid", "sha256", "alttext")} | {"jpeg_sha256": row["sha256"]}
        caption |= {"vec": vec, "vecap": vecap and vecap.strip(), "vecap_from": origin}
        caption |= {"vec_tokens": 3, "vecap_tokens": 4}
        for text in ("vec", "vecap"):
            caption |= {f"{text}_model": f"tiny-{text}", f"{text}_revision": "0123456789abcdef"}
            caption |= {f"{text}_prompt": f"{text}@abc", f"{text}_parameters": "{}"}
        if variants:
            caption |= {
                "alttext_rewritten": row["alttext"] and f"rewritten {row['alttext']}",
                "alttext_rewritten_tokens": 2,
            }
            copied = ("model", "revision", "parameters")
            caption |= {f"alttext_rewritten_{name}": caption[f"vecap_{name}"] for name in copied}
            caption |= {"alttext_rewritten_prompt": "rewrite@abc"}
            for text, kept in (("vec", vec), ("vecap", origin == "llm"), ("alttext_rewritten", row["alttext"])):
                texts = [caption[text], None, *(f"{caption[text]}, variant {n}" for n in range(2, variants))]
                caption[f"{text}_variants"] = texts[:variants] if kept else [None] * variants
        captions.append(caption)
    table = pa.Table.from_pylist(captions, schema=CAPTIONS)
    half = -(-len(table) // 2)
    samples = {}
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(part, output / f"{number:05d}.parquet")
        samples[f"{number:05d}"] = Counter(row["key"][:5] for row in part.to_pylist() if row["vecap_from"] != "none")
    (output / "samples.json").write_text(json.dumps(samples))
    captioned = sum(caption["vecap_from"] in ("llm", "vec") for caption in captions)
    (config.base / "given" / "rewrite.json").write_text(json.dumps({"rows": len(table), "captioned": captioned}))
    return table
