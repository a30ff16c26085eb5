"""An export has the version's samples, texts, kept columns and rights, and common readers load it unchanged."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
import yaml
from PIL import Image

from tests.cli.test_mistakes import run
from tests.export.conftest import ACCEPTED, NO_VEC, SAMPLES, WITHOUT_ALTTEXT, build, origin_of, write_config
from tests.old_versions import MODELS, unpack
from tests.quality.factories import INTERVAL
from vecap_tasks.cli import export as command
from vecap_tasks.config import Config, HfSource, load_config, parse_config
from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import read_samples
from vecap_tasks.core.version import published, read_version, register
from vecap_tasks.crawl.sources.hf import HfDataset
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.export.exporter import Exported, Exporter
from vecap_tasks.export.formats import FORMATS
from vecap_tasks.export.records import TEXTS


def export(config: Config, out: Path | str, form: str = "webdataset", text: Any = "vecap") -> Exported:
    return Exporter(config, INTERVAL, form, text, str(out)).run(lambda done, total: None)


def tars(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.tar"))]


def assembled(config: Config) -> list[dict[str, Any]]:
    """Return the rows of the training shards, with their images as `jpg`."""
    store = Store(config.resolve(config.root))
    manifest = published(store, read_version(store, config.dataset, INTERVAL))
    assert manifest is not None
    rows: list[dict[str, Any]] = []
    for tar in manifest.files_ending(".tar"):
        with store.open(tar) as stream:
            rows += [json.loads(s.members["json"]) | {"jpg": s.members["jpg"]} for s in read_samples(stream)]
    return rows


@pytest.fixture
def rows(shared: Config) -> list[dict[str, Any]]:
    return assembled(shared)


def test_webdataset_has_every_sample_in_order(shared: Config, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    result = export(shared, tmp_path / "out")
    samples = list(wds.WebDataset(tars(tmp_path / "out"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows]
    for sample, row in zip(samples, rows, strict=True):
        assert sample["jpg"] == row["jpg"], "the image is copied byte for byte"
        assert sample["txt"].decode() == row["vecap"]
        values = json.loads(sample["json"])
        assert {name: values[name] for name in row.keys() & values.keys()} == {
            name: row[name] for name in row.keys() & values.keys()
        }
        assert row.keys() - values.keys() <= {"jpg", "alttext_rewritten", *(n for n in row if n.endswith("_variants"))}
        assert values["text"] == row["vecap"]
    sizes = json.loads((tmp_path / "out" / "sizes.json").read_text())
    assert list(sizes) == [Path(tar).name for tar in tars(tmp_path / "out")]
    assert sum(sizes.values()) == len(rows) == result.exported == SAMPLES
    assert result.shards == len(sizes) == 6


def test_the_origin_of_an_image_comes_from_the_source_and_the_crawl(shared: Config, tmp_path: Path) -> None:
    export(shared, tmp_path / "out", "parquet")
    table = pq.read_table(tmp_path / "out" / "data").to_pylist()
    assert len(table) == SAMPLES
    for row in table:
        index = int(row["uid"], 16)
        known = origin_of(index)
        assert json.loads(row["kept"]) == json.loads(known["kept"])
        assert (row["page_url"], row["page_title"]) == (known["page_url"], known["page_title"] or "")
        assert row["license"] == ("CC-BY-4.0" if index % 2 else "")
        # EXIF has a telephone number for index % 5 == 3.
        assert row["attribution"] == {1: "Jane Roe", 2: "© Studio"}.get(index % 5, "")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    licensed = sum(row["license"] != "" for row in table)
    assert f"| `CC-BY-4.0` | {licensed} |" in card
    assert f"| `attribution` | {sum(row['attribution'] != '' for row in table)} |" in card


def test_parquet_is_read_by_pandas_and_duckdb(shared: Config, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    export(shared, tmp_path / "out", "parquet")
    table = pd.read_parquet(tmp_path / "out" / "data")
    assert list(table["uid"]) == [row["uid"] for row in rows]
    assert [image["bytes"] for image in table["image"]] == [row["jpg"] for row in rows]
    assert Image.open(io.BytesIO(table["image"][0]["bytes"])).size == (64, 48)
    query = f"""SELECT count(*), sum(octet_length(image.bytes)), count(DISTINCT kept ->> 'sku')
        FROM '{tmp_path}/out/data/*.parquet'"""
    assert duckdb.sql(query).fetchall() == [(SAMPLES, sum(len(row["jpg"]) for row in rows), SAMPLES)]
    for path in (tmp_path / "out" / "data").iterdir():
        metadata = json.loads(pq.read_schema(path).metadata[b"huggingface"])
        assert metadata["info"]["features"]["image"] == {"_type": "Image"}


@pytest.mark.parametrize("form", ["parquet", "hf"])
def test_vecap_reads_an_export_as_a_hugging_face_dataset(shared: Config, tmp_path: Path, form: str) -> None:
    export(shared, tmp_path / "out", form)
    source = {"kind": "hf", "path": str(tmp_path / "out"), "caption_column": "text", "keep_columns": ["uid"]}
    config = parse_config({"dataset": "again", "root": str(tmp_path / "s"), "crawl": {"source": source}}, tmp_path)
    assert isinstance(config.crawl.source, HfSource)
    dataset, stats = HfDataset(config, config.crawl.source, INTERVAL), Stats()
    links = [link for part in dataset.parts() for link in dataset.read(part, stats)]
    assert stats.counters == {"images": SAMPLES}
    assert {json.loads(link.kept or "")["uid"]: link.alttext for link in links} == {
        row["uid"]: row["vecap"] for row in assembled(shared)
    }


@pytest.mark.slow
def test_the_library_datasets_loads_every_format(
    shared: Config, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    for form in FORMATS:
        export(shared, tmp_path / form, form)
    cache = str(tmp_path / "cache")
    tar, parquet = (
        datasets.load_dataset(str(tmp_path / form), split="train", cache_dir=cache)
        for form in ("webdataset", "parquet")
    )
    saved = datasets.load_from_disk(str(tmp_path / "hf"))
    assert saved.features == parquet.features
    assert saved[0]["image"].size == parquet[0]["image"].size == tar[0]["jpg"].size == (64, 48)
    expected = [row["vecap"] for row in rows]
    assert list(saved["text"]) == list(parquet["text"]) == list(tar["txt"]) == expected
    assert [values["kept"] for values in tar["json"]] == list(saved["kept"])


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("vecap", {"no_caption": 1}),
        ("alttext", {"no_caption": 1, "no_alttext": WITHOUT_ALTTEXT}),
        ("vec", {"no_caption": 1, "no_vec": 1}),
        ("all", {"no_caption": 1}),
    ],
)
def test_the_counts_of_a_text_add_up(shared: Config, tmp_path: Path, text: str, left_out: dict[str, int]) -> None:
    result = export(shared, tmp_path / "out", text=text)
    assert result.left_out == left_out
    assert result.exported + sum(left_out.values()) == result.rows == ACCEPTED
    samples = list(wds.WebDataset(tars(tmp_path / "out"), shardshuffle=False))
    assert len(samples) == result.exported
    for sample in samples:
        values = json.loads(sample["json"])
        if text == "all":
            texts = [values[name] for name in ("vecap", "alttext", "vec")]
            assert values["text"] == list(dict.fromkeys(filter(None, texts)))
            assert sample["txt"].decode() == values["vecap"]
        else:
            assert sample["txt"].decode() == values["text"] == values[text] != ""
    fallback = [json.loads(s["json"]) for s in samples if json.loads(s["json"])["uid"] == NO_VEC]
    assert [row["vecap_from"] for row in fallback] == ([] if text == "vec" else ["alttext"])


def test_a_list_of_texts_is_a_column_of_lists(shared: Config, tmp_path: Path) -> None:
    for form in ("parquet", "hf"):
        export(shared, tmp_path / form, form, "all")
    parquet = pq.read_table(tmp_path / "parquet" / "data")
    assert parquet.schema.field("text").type.value_type == pa.string()
    paths = sorted((tmp_path / "hf").glob("*.arrow"))
    arrow = pa.concat_tables(pa.ipc.open_stream(path.read_bytes()).read_all() for path in paths)
    assert arrow.to_pylist() == parquet.to_pylist()
    state = json.loads((tmp_path / "hf" / "state.json").read_text())
    assert [file["filename"] for file in state["_data_files"]] == [path.name for path in paths]


def test_all_captions_of_a_model_are_exported(tmp_path: Path) -> None:
    rewrite = {"vlm": {"variants": 1}, "llm": {"variants": 3}, "alttext_prompt": "rewrite"}  # as `identity` names them
    config = load_config(write_config(build(tmp_path, rewrite, variants=3)))
    rows = {row["uid"]: row for row in assembled(config)}
    export(config, tmp_path / "out", "hf")
    paths = sorted((tmp_path / "out").glob("*.arrow"))
    table = pa.concat_tables(pa.ipc.open_stream(path.read_bytes()).read_all() for path in paths).to_pylist()
    names = ("alttext_rewritten", "alttext_rewritten_variants", "vec_variants", "vecap_variants")
    assert len(table) == SAMPLES
    for row in table:
        assert {name: row[name] for name in names} == {name: rows[row["uid"]][name] for name in names}
    assert max(len(row["vecap_variants"]) for row in table) == 2
    features = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["features"]
    assert features["vecap_variants"] == {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
    if importlib.util.find_spec("datasets"):
        import datasets

        assert datasets.load_from_disk(str(tmp_path / "out"))["vecap_variants"][0] == table[0]["vecap_variants"]


def test_the_card_has_counts_rights_and_provenance(shared: Config, tmp_path: Path) -> None:
    export(shared, tmp_path / "out", "webdataset", "alttext")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["license"] == "cc0-1.0"
    assert metadata["configs"][0]["data_files"] == [{"split": "train", "path": "*.tar"}]
    assert [feature["name"] for feature in metadata["dataset_info"]["features"]] == ["jpg", "txt", "json"]
    for line in ("| left out: no_caption | 1 |", "| left out: no_alttext | 1 |", "| exported | 40 |"):
        assert line in card.splitlines()
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert all(digest in card for digest in record["export"]["stages"].values())
    listed = {entry["path"] for entry in record["files"]} | {"export.json"}
    assert listed == {path.name for path in (tmp_path / "out").iterdir()}


def test_versions_of_an_earlier_release_are_exported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECAP_MODELS", str(MODELS))
    config = load_config(unpack(home))
    result = Exporter(config, "2026-01-01", "parquet", "vecap", str(home / "out")).run(lambda done, total: None)
    assert result.exported == len(pq.read_table(home / "out" / "data")) > 0
    assert result.exported + sum(result.left_out.values()) == result.rows


def test_the_command_knows_all_formats_and_texts() -> None:
    assert tuple(FORMATS) == command._FORMATS
    assert TEXTS == command._TEXTS


def test_the_named_version_is_exported_and_its_newer_revision_is_mentioned(
    config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store(config.resolve(config.root))
    register(store, config.dataset, INTERVAL, "changed", {"rewrite": {}})
    options = f"--config {tmp_path / 'config.yaml'} --version {INTERVAL} --format parquet --out {tmp_path / 'out'}"
    code, shown, errors = run(f"export {options}", capfd)
    assert (code, shown.splitlines()[0]) == (
        0,
        f"exported {SAMPLES} of {ACCEPTED} accepted rows; left out 1: 1 no_caption",
    )
    hint = f"{INTERVAL} has the newer revision {INTERVAL}-r2 (unfinished); name {INTERVAL}-r2 to use it"
    assert errors.splitlines()[0] == hint
    assert json.loads((tmp_path / "out" / "export.json").read_text())["export"]["version"] == INTERVAL
