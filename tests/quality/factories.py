"""A version whose crawl, and if need be captions, are given as files: real tables, tars, receipts and manifests."""

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
    """Publishes the files that a test put into `given/<name>` beside the configuration."""

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
    """One crawled row; `image` numbers its picture, so that rows with the same number have the same bytes."""

    caption: str | None = "A beagle in the snow"
    image: int | None = None
    status: str = "success"
    language: str | None = None
    error_message: str | None = None
    original_width: int = 64
    original_height: int = 48
    flat: bool = False
    scores: str | None = None
    language: str | None = None


def configure(folder: Path, **sections: Any) -> Config:
    """Return a configuration whose store lies in *folder*; *sections* replace or add top-level keys."""
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
    """Let crawl and rewrite be the given ones."""
    for kind in (GivenCrawl, GivenRewrite):
        monkeypatch.setitem(core_stage.STAGES, kind.name, f"{kind.__module__}:{kind.__name__}")


def stage(name: str, config: Config) -> Stage:
    return core_stage.load_stage(name, config, Version(config.dataset, INTERVAL, 1, ""))


def run(name: str, config: Config) -> Any:
    """Do the whole stage here and return its manifest."""
    made = stage(name, config)
    for shard in made.plan():
        made.run(shard)
    return made.commit()


def give_crawl(folder: Path, rows: Sequence[Row], shard_size: int = 10) -> pa.Table:
    """Write *rows* as a crawl's files, duplicates found by their bytes, and return the table of all."""
    place = folder / "given" / "crawl"
    place.mkdir(parents=True)
    kept: dict[str, str] = {}
    doubles = []
    tables = []
    for number, start in enumerate(range(0, len(rows), shard_size)):
        made = []
        with TarWriter(place / f"{number:05d}.tar") as tar:
            for place_in_shard, row in enumerate(rows[start : start + shard_size]):
                key, index = f"{number:05d}{place_in_shard:04d}", start + place_in_shard
                entry = _entry(key, index, row)
                made.append(entry)
                if row.status != "success":
                    continue
                data = picture(index if row.image is None else row.image)
                entry |= {"sha256": sha256(data).hexdigest()}
                tar.write(key, {"jpg": data, "txt": (row.caption or "").encode(), "json": json.dumps(entry).encode()})
                first = kept.setdefault(entry["sha256"], entry["uid"])
                if first != entry["uid"]:
                    doubles.append(
                        {"key": key, "uid": entry["uid"], "duplicate_of": first, "kind": "exact", "distance": 0}
                    )
        tables.append(pa.Table.from_pylist(made, schema=CRAWL))
        pq.write_table(tables[-1], place / f"{number:05d}.parquet")
    pq.write_table(pa.Table.from_pylist(doubles, schema=DUPLICATES), place / "duplicates.parquet")
    table = pa.concat_tables(tables) if tables else CRAWL.empty_table()
    statuses = Counter(table["status"].to_pylist())
    counters = {"candidates": len(table), "duplicates": len(doubles), **statuses}
    (folder / "given" / "crawl.json").write_text(json.dumps(counters))
    return table


def crawled(captions: Sequence[str | None], **columns: Sequence[Any]) -> list[dict[str, Any]]:
    """Return downloaded rows of CRAWL with these AltTexts, each with a picture of its own; *columns* say otherwise."""
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
    """Return the verdicts on *crawl*, rows of CRAWL, in their order, under the section `quality` with *config*."""
    with TemporaryDirectory() as work, duckdb.connect() as connection:
        connection.register("crawl", pa.Table.from_pylist(crawl, schema=CRAWL))
        connection.register("duplicates", pa.Table.from_pylist(duplicates, schema=DUPLICATES))
        connection.register("scores", scores if scores is not None else SCORES.empty_table())
        compute_verdicts(connection, QualityConfig.model_validate(config), Path(work), released)
        return connection.sql("SELECT * FROM verdicts ORDER BY key").to_arrow_table().to_pylist()


def _entry(key: str, index: int, row: Row) -> dict[str, Any]:
    made = {name: value for name, value in asdict(row).items() if name in CRAWL.names}
    made |= {"key": key, "uid": f"{index:032x}", "url": f"https://host{index % 3}.example/{index}.jpg", "source": "web"}
    if row.status == "success":
        made |= {"width": 64, "height": 48, "original_format": "PNG", "original_bytes": 9, "exif": "{}"}
        made |= {"phash": None if row.flat else f"{index if row.image is None else row.image:016x}"}
    return made


def picture(number: int) -> bytes:
    """Return a JPEG, 64 by 48 pixels, of its own for each *number*."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), (number % 256, number // 256, 90)).save(stream, "JPEG", quality=95, comment=str(number))
    return stream.getvalue()


def give_captions(
    config: Config, without: Sequence[str] = (), only_alttext: Sequence[str] = (), variants: int = 0
) -> pa.Table:
    """Write captions of the accepted rows: none at all for the uids in *without*, no VeC for *only_alttext*.

    With *variants* the models wrote so many texts of each, of which the second was refused, and rewrote the AltText.
    """
    place = config.base / "given" / "rewrite"
    place.mkdir(parents=True)
    quality = stage("quality", config)
    verdicts = pq.read_table(quality.store.path(f"{quality.folder}/verdicts.parquet")).to_pylist()
    lines = []
    for row in (row for row in verdicts if row["accepted"]):
        vec = None if row["uid"] in (*without, *only_alttext) else f"a picture numbered {int(row['uid'], 16)}"
        vecap = None if row["uid"] in without else row["alttext"] if vec is None else f"{row['alttext'] or ''} {vec}"
        origin = "none" if vecap is None else "alttext" if vec is None else "llm" if row["alttext"] else "vec"
        made = {name: row[name] for name in ("key", "uid", "sha256", "alttext")}
        made |= {"vec": vec, "vecap": vecap and vecap.strip(), "vecap_from": origin, "vec_tokens": 3, "vecap_tokens": 4}
        for text in ("vec", "vecap"):
            made |= {f"{text}_model": f"tiny-{text}", f"{text}_revision": "0123456789abcdef"}
            made |= {f"{text}_prompt": f"{text}@abc", f"{text}_parameters": "{}"}
        if variants:
            made |= {
                "alttext_rewritten": row["alttext"] and f"rewritten {row['alttext']}",
                "alttext_rewritten_tokens": 2,
            }
            made |= {f"alttext_rewritten_{name}": made[f"vecap_{name}"] for name in ("model", "revision", "parameters")}
            made |= {"alttext_rewritten_prompt": "rewrite@abc"}
            for text, kept in (("vec", vec), ("vecap", origin == "llm"), ("alttext_rewritten", row["alttext"])):
                drawn = [made[text], None, *(f"{made[text]}, variant {n}" for n in range(2, variants))]
                made[f"{text}_variants"] = drawn[:variants] if kept else [None] * variants
        lines.append(made)
    table = pa.Table.from_pylist(lines, schema=CAPTIONS)
    half = -(-len(table) // 2)
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(part, place / f"{number:05d}.parquet")
    captioned = sum(line["vecap_from"] in ("llm", "vec") for line in lines)
    (config.base / "given" / "rewrite.json").write_text(json.dumps({"rows": len(table), "captioned": captioned}))
    return table
