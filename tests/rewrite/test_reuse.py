"""A caption made once is not paid for again: by the next day's crawl, or by many versions rewritten together."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.old_versions import MODELS, VERSIONS, unpack
from vecap_tasks.config import load_config
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect
from vecap_tasks.core.version import Version
from vecap_tasks.rewrite.accepted_rows import Row
from vecap_tasks.rewrite.reuse import CaptionCache, find_captions, finished_captions
from vecap_tasks.rewrite.stage import Rewrite


def notes(stage: Rewrite) -> dict[str, int]:
    """What became of the shards that are done, added up."""
    total: dict[str, int] = {}
    for receipt in stage.receipts():
        for name, count in receipt.notes.items():
            total[name] = total.get(name, 0) + count
    return total


def finish(stage: Rewrite) -> dict[str, int]:
    for shard in stage.plan():
        stage.run(shard)
    return notes(stage)


@pytest.fixture
def days(place, given):
    """Three days' crawls of 20 images each, of which 15 were there the day before."""
    config = place.config(vlm=place.config().rewrite.vlm.model_dump() | {"retry_temperature": 0})
    crawls = [[given(f"A Belvo {n} tulip", image=n) for n in range(5 * day, 5 * day + 20)] for day in range(3)]
    versions = [place.lay_down(config, rows, f"2026-01-0{day}") for day, rows in enumerate(crawls, start=1)]
    return [Rewrite(config, version) for version in versions]


def test_the_next_days_crawl_has_only_its_new_images_captioned(days) -> None:
    asked = []
    for stage in days:
        asked.append(finish(stage)["vlm_captions"])
        stage.commit()
    assert asked == [20, 5, 5]


def test_versions_in_the_making_take_each_others_captions(days) -> None:
    asked = [finish(stage)["vlm_captions"] for stage in days]
    assert asked == [20, 5, 5]
    assert [stage.manifest() for stage in days] == [None] * 3


def test_a_shard_reads_the_files_that_have_its_images_and_no_others(tmp_path) -> None:
    store = Store(str(tmp_path))
    names = [f"{number}.parquet" for number in range(3)]
    for number, name in enumerate(names):
        shas = [hashlib.sha256(f"{number} {row}".encode()).hexdigest() for row in range(4)]
        pq.write_table(pa.table({"sha256": shas}), tmp_path / name)
    accepted = [hashlib.sha256(f"{number} 0".encode()).hexdigest() for number in (0, 2)]
    pq.write_table(pa.table({"sha256": accepted, "accepted": [True, False]}), tmp_path / "verdicts.parquet")
    earlier = CaptionCache(store, names, store.query_path("verdicts.parquet"))
    row = [Row("", "", sha256, None, "") for sha256 in accepted]
    assert earlier.files_with(row[:1]) == ["0.parquet"]
    assert earlier.files_with(row[1:]) == []  # its row was refused
    assert earlier.files_with([]) == []
    assert CaptionCache(store, (), store.query_path("verdicts.parquet")).files_with(row) == []


def test_a_million_captions_are_looked_through_in_little_memory(tmp_path) -> None:
    store = Store(str(tmp_path))
    with connect(store) as connection:
        connection.execute(
            f"COPY (SELECT sha256(range::VARCHAR) AS sha256, true AS accepted FROM range(1000000)) "
            f"TO '{tmp_path}/captions.parquet'"
        )
    place = store.query_path("captions.parquet")
    earlier = CaptionCache(store, ["captions.parquet"], place, memory_limit="150MB")
    wanted = [Row("", "", hashlib.sha256(b"999999").hexdigest(), None, "")]
    assert earlier.files_with(wanted) == ["captions.parquet"]


@pytest.mark.parametrize("change", ["device=cpu", "device=cuda", "threads=4"])
def test_captions_of_an_earlier_release_are_found_whatever_the_device(home, monkeypatch, change) -> None:
    monkeypatch.setenv("VECAP_MODELS", str(MODELS))
    config = load_config(unpack(home), [f"rewrite.{role}.{change}" for role in ("vlm", "llm")])
    stage = Rewrite(config, Version(config.dataset, "2026-01-03", 1, ""))
    files = finished_captions(stage.store, stage.version)
    made = [line for name in files for line in pq.read_table(stage.store.path(name)).to_pylist()]
    rows = [Row(line["key"], line["uid"], line["sha256"], line["alttext"], "") for line in made]
    found = find_captions(stage.store, files, rows, stage._provenances)
    assert len({name.split("/")[1] for name in files}) == len(VERSIONS)
    assert {sha256: caption.text for sha256, caption in found.vec.items()} == {
        line["sha256"]: line["vec"] for line in made
    }
    tokens = config.rewrite.llm.max_new_tokens
    fused = [line for line in made if line["vecap_tokens"] and f'"max_new_tokens":{tokens}' in line["vecap_parameters"]]
    assert found.vecap.keys() == {(line["alttext"], line["vec"]) for line in fused}
