"""Hugging Face datasets on disk, in the layouts that `datasets` writes and reads."""

import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.crawl.conftest import crawl, stage_of
from tests.crawl.web import image
from vecap_tasks.crawl.candidates import open_source
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.errors import VecapError

IMAGES = [image("JPEG", color=(10 * n, 250 - 10 * n, 7 * n)) for n in range(20)]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(numbers, **columns):
    images = pa.array([{"bytes": IMAGES[n], "path": f"{n}.jpg"} for n in numbers], IMAGE)
    texts = [f"text {n}" for n in numbers]
    return pa.table({"image": images, "text": texts, "id": pa.array(numbers, pa.int64())} | columns)


def save_to_disk(folder, rows, rows_per_batch=3, **state):
    """Write *rows* as `Dataset.save_to_disk` does: Arrow streams in small batches, and their names in state.json."""
    folder.mkdir(parents=True)
    names = []
    for number, part in enumerate((rows.slice(0, 7), rows.slice(7))):
        names.append({"filename": f"data-{number:05d}-of-00002.arrow"})
        with pa.OSFile(str(folder / names[-1]["filename"]), "wb") as file, pa.ipc.new_stream(file, rows.schema) as out:
            out.write_table(part, rows_per_batch)
    (folder / "state.json").write_text(json.dumps({"_data_files": names, "_split": folder.name} | state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"image": {"_type": "Image"}}}))


def write_saved(folder):
    save_to_disk(folder / "train", table(range(12)))
    save_to_disk(folder / "test", table(range(12, 20)))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))


def write_parquet(folder):
    (folder / "data").mkdir(parents=True)
    pq.write_table(table(range(12)), folder / "data/train-00000-of-00001.parquet", row_group_size=5)
    pq.write_table(table(range(12, 20)), folder / "data/test-00000-of-00001.parquet")


def write_imagefolder(folder):
    for split, numbers in (("train", range(12)), ("test", range(12, 20))):
        (folder / split).mkdir(parents=True)
        for n in numbers:
            (folder / split / f"{n}.jpg").write_bytes(IMAGES[n])
        lines = [json.dumps({"file_name": f"{n}.jpg", "text": f"text {n}", "id": n}) for n in numbers]
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def source():
    return lambda **more: {"kind": "hf", "path": "${VECAP_HOME}/hf", "keep_columns": ["id", "file_name"]} | more


def read(config):
    dataset, stats, links = open_source(config, "2026-01-01"), Stats(), []
    for part in dataset.parts():
        links += dataset.read(part, stats)
    skipped = sum(count for name, count in stats.counters.items() if name.startswith("skipped."))
    assert stats.counters["images"] == len(links) + skipped
    return links, Counter(stats.counters)


@pytest.mark.parametrize("write", [write_saved, write_parquet, write_imagefolder])
def test_a_split_of_each_layout(write, source, configure, web, tmp_path):
    write(tmp_path / "hf")
    stage, manifest = crawl(configure(source(), shard_size=5))
    rows = [pq.read_table(stage.store.path(manifest.file(f"0000{n}.parquet"))).to_pylist() for n in range(3)]
    found = {row["caption"]: row for shard in rows for row in shard}
    assert set(found) == {f"text {n}" for n in range(12)}
    for n in range(12):
        row = found[f"text {n}"]
        assert json.loads(row["kept"]) == {"id": n, "file_name": f"{n}.jpg"}
        assert (row["status"], row["original_bytes"]) == ("success", len(IMAGES[n]))
    assert not web.request_counts
    assert str(tmp_path) not in json.dumps(manifest.content)
    links, _ = read(configure(source(split="test")))
    assert [link.alttext for link in links] == [f"text {n}" for n in range(12, 20)]


def test_layouts_give_images_the_same_names(source, configure, tmp_path):
    urls = []
    for number, write in enumerate((write_saved, write_parquet, write_imagefolder)):
        write(tmp_path / str(number))
        urls.append([link.url for link in read(configure(source(path=f"${{VECAP_HOME}}/{number}")))[0]])
    assert urls[0] == urls[1] == urls[2]
    assert len(set(urls[0])) == 12


def test_bad_rows_fail_alone(source, configure, tmp_path):
    (tmp_path / "hf/images").mkdir(parents=True)
    (tmp_path / "hf/images/own.jpg").write_bytes(IMAGES[3])
    (tmp_path / "secret.jpg").write_bytes(IMAGES[4])
    cells = [
        {"bytes": IMAGES[0], "path": None}, None, {"bytes": None, "path": None},
        {"bytes": IMAGES[1][:300], "path": "x"},
        {"bytes": None, "path": "images/own.jpg"}, {"bytes": None, "path": "../secret.jpg"},
        {"bytes": None, "path": str(tmp_path / "secret.jpg")}, {"bytes": b"x" * 9000, "path": None},
    ]  # fmt: skip
    texts = pa.array([["one", "other"], [], None, ["cut"], ["own"], ["out"], ["out"], ["large"]], pa.list_(pa.string()))
    pq.write_table(pa.table({"img": pa.array(cells, IMAGE), "caption": texts}), tmp_path / "hf/rows.parquet")
    config = configure(source(keep_columns=[]), {"max_bytes": 8000})
    _, manifest = crawl(config)
    assert {name: count for name, count in manifest.counters.items() if "." in name} == {
        "dropped.caption_variants": 1, "error.damaged": 1, "skipped.no_image": 2, "skipped.outside_folder": 2,
        "skipped.too_large": 1,
    }  # fmt: skip
    assert (manifest.counters["images"], manifest.counters["success"]) == (8, 2)


def test_a_table_that_changes_during_the_crawl_fails_its_rows(source, configure, tmp_path):
    save_to_disk(tmp_path / "hf", table(range(12)))
    stage = stage_of(configure(source()))
    (shard,) = stage.plan()
    (tmp_path / "hf/data-00000-of-00002.arrow").unlink()
    with pa.OSFile(str(tmp_path / "hf/data-00001-of-00002.arrow"), "wb") as file:
        rows = table([7, 8])
        with pa.ipc.new_stream(file, rows.schema) as out:
            out.write_table(rows)
    counters = stage.run(shard).counters
    assert (counters["success"], counters["error.not_stored"]) == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "dev"}, r"has no split dev \(train, test\); set crawl\.source\.split"),
        (
            {"image_column": "pixels"},
            r"has no column pixels \(columns: image, text, id\); set crawl\.source\.image_col",
        ),
        ({"image_column": "id"}, r"column id has int64, not images"),
        ({"caption_column": "caption"}, r"has no column caption .*set crawl\.source\.caption_column"),
        ({"keep_columns": ["sku"]}, r"has no column sku .*set crawl\.source\.keep_columns"),
        ({"path": "${VECAP_HOME}/none"}, r"folder .*/none does not exist"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_a_one_line_error(source, configure, tmp_path, settings, message):
    write_saved(tmp_path / "hf")
    with pytest.raises(VecapError, match=message) as error:
        read(configure(source(**settings)))
    assert "\n" not in str(error.value)


def test_a_damaged_dataset_is_a_one_line_error(source, configure, tmp_path):
    folder = tmp_path / "hf"
    save_to_disk(folder, table(range(12)))
    whole = (folder / "data-00001-of-00002.arrow").read_bytes()
    for length in (len(whole) // 2, len(whole) - 8):  # the second cut is between two batches
        (folder / "data-00001-of-00002.arrow").write_bytes(whole[:length])
        with pytest.raises(VecapError, match=r"data-00001-of-00002\.arrow is corrupt or truncated.*save it again"):
            read(configure(source()))
    (folder / "state.json").write_text('{"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}')
    with pytest.raises(VecapError, match=r"it has indices; save dataset\.flatten_indices\(\)"):
        read(configure(source()))
    (folder / "state.json").write_text("{")
    with pytest.raises(VecapError, match="cannot be read as a Hugging Face dataset"):
        read(configure(source()))
    (folder / "state.json").unlink()
    with pytest.raises(VecapError, match=r"has no state\.json of save_to_disk, no parquet files and no metadata\.csv"):
        read(configure(source()))
    (tmp_path / "other.parquet").write_bytes(b"")
    (folder / "train.parquet").symlink_to(tmp_path / "other.parquet")
    with pytest.raises(VecapError, match=r"train\.parquet cannot be read: outside_folder"):
        read(configure(source()))
