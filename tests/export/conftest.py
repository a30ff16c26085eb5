"""A published version with six training shards from two groups, with pages, EXIF and kept columns."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.faults import check
from tests.quality import factories
from tests.quality.factories import (
    INTERVAL,
    GivenRewrite,
    Row,
    configure,
    give_captions,
    give_crawl,
    stage,
    use_given,
)
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.schemas import KEPT
from vecap_tasks.core.version import register

ROWS = [
    *(Row(caption=f"Beagle no. {n} at the fair") for n in range(20)),
    Row(caption=None),
    Row(caption="IMG_2041.jpg"),
    Row(status="failed_to_download", error_message="http_404"),
    *(Row(caption=f"Heron {n} & <b>friends</b>") for n in range(20)),
]
NO_CAPTION, NO_VEC = f"{3:032x}", f"{4:032x}"
ACCEPTED, SAMPLES, WITHOUT_ALTTEXT = 42, 41, 1
KEEP = ["sku", "license", "Author"]


def origin_of(index: int) -> dict[str, Any]:
    """Return what the source and the crawl know about the image *index*."""
    kept = {
        "sku": f"SKU-{index}",
        "license": "CC-BY-4.0" if index % 2 else None,
        "Author": "Jane Roe" if index % 5 == 1 else None,
    }
    exif = {"Copyright": "© Studio"} if index % 5 == 2 else {"Artist": "Tel. 212-555-0142"} if index % 5 == 3 else {}
    return {
        "page_url": f"https://pages.example/{index % 3}",
        "page_title": None if index % 4 == 0 else f"Page {index % 3}",
        "exif": json.dumps(exif),
        "kept": json.dumps(kept),
    }


def _add_origins(folder: Path) -> None:
    """Add pages, EXIF and kept columns to the tables of the given crawl."""
    for path in sorted((folder / "given" / "crawl").glob("0*.parquet")):
        rows = [row | origin_of(int(row["uid"], 16)) for row in pq.read_table(path).to_pylist()]
        table = pa.Table.from_pylist(rows, schema=pq.read_schema(path).append(KEPT))
        pq.write_table(table, path)


def write_config(folder: Path) -> Path:
    """Write the configuration of the version in *folder* / store."""
    file = folder / "config.yaml"
    values = {"dataset": "given", "root": "store", "crawl": {"source": {"kind": "folder", "path": "photos"}}}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def build(folder: Path, rewrite: dict[str, Any], variants: int = 0) -> Path:
    """Publish the version in *folder* / store, with *variants* per text; *rewrite* is the recorded configuration."""
    with pytest.MonkeyPatch.context() as patch:
        use_given(patch)
        patch.setattr(GivenRewrite, "identity", lambda _: rewrite)
        patch.setitem(sys.modules, "vecap_tasks.quality.expectations", check)
        source = {"kind": "folder", "path": "photos", "keep_columns": KEEP}
        assemble = {"shard_size": 9, "license": "CC0-1.0 (drawn)"}
        config = configure(folder, crawl={"source": source}, assemble=assemble)
        give_crawl(folder, ROWS)
        _add_origins(folder)
        for name in ("crawl", "quality"):
            factories.run(name, config)
        give_captions(config, without=[NO_CAPTION], only_alttext=[NO_VEC], variants=variants)
        for name in ("rewrite", "assemble"):
            factories.run(name, config)
        last = stage("assemble", config)
        register(last.store, config.dataset, INTERVAL, last.fingerprint, {"rewrite": {}})
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of one published version."""
    return build(tmp_path_factory.mktemp("built"), {})


@pytest.fixture
def config(built: Path, tmp_path: Path) -> Config:
    """The configuration of a copy of the version."""
    shutil.copytree(built / "store", tmp_path / "store")
    return load_config(write_config(tmp_path))


@pytest.fixture(scope="session")
def shared(built: Path) -> Config:
    """The configuration of the version, for tests that do not change it."""
    return load_config(write_config(built))
