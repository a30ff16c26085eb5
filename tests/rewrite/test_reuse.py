"""Captions are reused by later versions and by versions that are rewritten at the same time."""

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.core.factories import flip_bit, recorded
from tests.old_versions import MODELS, VERSIONS, unpack
from vecap_tasks.config import load_config
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect
from vecap_tasks.core.version import Version
from vecap_tasks.errors import CorruptError
from vecap_tasks.rewrite.accepted_rows import Row
from vecap_tasks.rewrite.backends.sampling_params import Sampling
from vecap_tasks.rewrite.batches import text_key
from vecap_tasks.rewrite.reuse import CaptionCache, find_answers, finished_captions
from vecap_tasks.rewrite.stage import Rewrite


def notes(stage: Rewrite) -> dict[str, int]:
    """Return the sum of the notes of all finished shards."""
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
def days(sandbox, crawl_row):
    """Crawls of three days with 20 images each, 15 of them also in the previous crawl."""
    config = sandbox.config(vlm=sandbox.config().rewrite.vlm.model_dump() | {"retry_temperature": 0})
    crawls = [[crawl_row(f"A Belvo {n} tulip", image=n) for n in range(5 * day, 5 * day + 20)] for day in range(3)]
    versions = [sandbox.write_crawl(config, rows, f"2026-01-0{day}") for day, rows in enumerate(crawls, start=1)]
    return [Rewrite(config, version) for version in versions]


def test_only_new_images_of_the_next_crawl_are_captioned(days) -> None:
    captioned = []
    for stage in days:
        captioned.append(finish(stage)["vlm_captions"])
        stage.commit()
    assert captioned == [20, 5, 5]


def test_unfinished_versions_reuse_captions_of_each_other(days) -> None:
    captioned = [finish(stage)["vlm_captions"] for stage in days]
    assert captioned == [20, 5, 5]
    assert [stage.manifest() for stage in days] == [None] * 3


def test_a_shard_reads_only_files_with_its_images(tmp_path) -> None:
    store = Store(str(tmp_path))
    names = [f"{number}.parquet" for number in range(3)]
    for number, name in enumerate(names):
        shas = [hashlib.sha256(f"{number} {row}".encode()).hexdigest() for row in range(4)]
        pq.write_table(pa.table({"sha256": shas}), tmp_path / name)
    accepted = [hashlib.sha256(f"{number} 0".encode()).hexdigest() for number in (0, 2)]
    pq.write_table(pa.table({"sha256": accepted, "accepted": [True, False]}), tmp_path / "verdicts.parquet")
    files = [recorded(store, name) for name in names]
    verdicts = [recorded(store, "verdicts.parquet")]
    earlier = CaptionCache(store, files, verdicts)
    row = [Row("", "", sha256, None, "") for sha256 in accepted]
    assert earlier.files_with(row[:1]) == ["0.parquet"]
    assert earlier.files_with(row[1:]) == []  # its row is rejected
    assert earlier.files_with([]) == []
    earlier = CaptionCache(store, files, verdicts)
    flip_bit(store, "0.parquet")
    with pytest.raises(CorruptError, match=r"^0\.parquet is corrupt"):
        earlier.files_with(row[:1])
    flip_bit(store, "0.parquet")
    assert CaptionCache(store, (), verdicts).files_with(row) == []


def test_a_million_captions_are_searched_in_bounded_memory(tmp_path) -> None:
    store = Store(str(tmp_path))
    with connect(store) as connection:
        connection.execute(
            f"COPY (SELECT sha256(range::VARCHAR) AS sha256, true AS accepted FROM range(1000000)) "
            f"TO '{tmp_path}/captions.parquet'"
        )
    files = [recorded(store, "captions.parquet")]
    earlier = CaptionCache(store, files, files, memory_limit="150MB")
    expected = [Row("", "", hashlib.sha256(b"999999").hexdigest(), None, "")]
    assert earlier.files_with(expected) == ["captions.parquet"]


@pytest.mark.parametrize("change", ["device=cpu", "device=cuda", "threads=4"])
def test_captions_of_an_earlier_release_are_reused_on_any_device(home, monkeypatch, change) -> None:
    monkeypatch.setenv("VECAP_MODELS", str(MODELS))
    config = load_config(unpack(home), [f"rewrite.{role}.{change}" for role in ("vlm", "llm")])
    stage = Rewrite(config, Version(config.dataset, "2026-01-03", 1, ""))
    files = [file.name for file in finished_captions(stage.store, stage.version)]
    records = [line for name in files for line in pq.read_table(stage.store.path(name)).to_pylist()]
    rows = [Row(line["key"], line["uid"], line["sha256"], line["alttext"], "") for line in records]
    assert len({name.split("/")[1] for name in files}) == len(VERSIONS)
    found = find_answers(stage.store, files, rows, stage._provenances)  # 0.1.0 screened with other rules
    tokens = config.rewrite.llm.max_new_tokens
    fused = [line for line in records if f'"max_new_tokens":{tokens}' in (line["vecap_parameters"] or "")]
    expected = accepted("vlm", "vec", {line["sha256"]: line for line in records})
    expected |= accepted("llm", "vecap", {f"{line['alttext']}\n{line['vec']}": line for line in fused})
    assert {key: answer.text for key, answer in found.items()} == expected


def accepted(role: str, prefix: str, lines: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the accepted texts of *lines*, by subject, with the keys of stored texts."""
    return {
        text_key(role, subject, Sampling(attempt["variant"], attempt["temperature"], attempt["seed"])): text
        for subject, line in lines.items()
        for attempt in line[f"{prefix}_attempts"]
        if attempt["problem"] is None and (text := line[f"{prefix}_variants"][attempt["variant"]])
    }
