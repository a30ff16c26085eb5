"""The stage rewrite end to end: every accepted row has captions with provenance."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from tests.core.factories import flip_bit, record_again
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.schemas import CAPTIONS
from vecap_tasks.core.version import Version
from vecap_tasks.errors import CorruptError, VecapError
from vecap_tasks.rewrite.caption_table import choose
from vecap_tasks.rewrite.stage import Rewrite


def run(config, version: Version, *, shards: list[str] | None = None):
    """Run the stage without workers and return it with its manifest and rows."""
    stage = Rewrite(config, version)
    for shard in shards if shards is not None else stage.plan():
        stage.run(shard)
    manifest = stage.commit()
    return stage, manifest, read(stage, manifest)


def read(stage: Rewrite, manifest) -> list[dict]:
    rows = []
    for name in manifest.files_ending(".parquet"):
        with stage.store.open(name) as stream:
            table = pq.read_table(stream)
        assert table.schema.equals(CAPTIONS)
        rows += table.to_pylist()
    return rows


@pytest.fixture
def crawl(crawl_row):
    """Three shards with 24 rows: one rejected, one without AltText, one with an invalid image."""
    rows = [crawl_row(f"A Belvo {number} tulip", image=number) for number in range(24)]
    rows[3] = crawl_row("refused", accepted=False, image=3)
    rows[5] = crawl_row(None, image=5)
    rows[11] = crawl_row("A name", image=None)
    return rows


def test_every_accepted_row_has_captions_in_key_order(sandbox, crawl) -> None:
    config = sandbox.config()
    stage, manifest, rows = run(config, sandbox.write_crawl(config, crawl))
    expected = [f"{number // 10:05d}{number % 10:04d}" for number in range(24) if number != 3]
    assert [row["key"] for row in rows] == expected
    assert [entry.rows for entry in manifest.files if entry.rows is not None] == [8, 8, 7]
    samples = json.loads(stage.store.read(manifest.file("samples.json")))
    assert list(samples) == ["00000", "00001", "00002"]
    found = Counter((row["key"][:5], f"{number // 8:05d}") for number, row in enumerate(rows) if row["vecap"])
    assert found == {(crawled, shard): count for shard, part in samples.items() for crawled, count in part.items()}
    assert manifest.counters["rows"] == 23
    assert sum(count for name, count in manifest.counters.items() if name.startswith("vecap_from.")) == 23
    written = [manifest.counters.get(f"vecap_from.{source}", 0) for source in ("llm", "vec")]
    assert manifest.counters["captioned"] == sum(written)
    assert manifest.counters["vec_tokens"] == sum(row["vec_tokens"] for row in rows) > 0
    problems = [row[name] for row in rows for name in ("vec_problem", "vecap_problem") if row[name]]
    assert sum(count for name, count in manifest.counters.items() if name.startswith("problem.")) == len(problems)
    assert stage.plan() == []


def test_a_row_has_the_provenance_of_its_captions(sandbox, crawl) -> None:
    config = sandbox.config()
    stage, manifest, rows = run(config, sandbox.write_crawl(config, crawl))
    row = rows[0]
    assert row["vec_model"] == str(sandbox.vlm)
    assert len(row["vec_revision"]) == 16
    assert row["vec_prompt"].startswith("describe@")
    assert row["vecap_prompt"].startswith("fuse@")
    parameters = json.loads(row["vec_parameters"])
    assert (parameters["max_new_tokens"], parameters["dtype"]) == (12, "float32")
    assert set(parameters) - set(config.rewrite.vlm.parameters()) == {"screening"}  # no settings of the crawl
    models = {item.name: item.digest for item in manifest.inputs if item.kind == "model"}
    assert models[str(sandbox.vlm)].startswith(row["vec_revision"])
    assert [item.name for item in manifest.inputs if item.kind == "prompt"] == ["describe", "fuse"]
    assert stage.identity()["vlm"]["digest"] == models[str(sandbox.vlm)]


def test_rows_without_a_caption_are_kept_with_the_reason(sandbox, crawl) -> None:
    config = sandbox.config()
    rows = {row["key"]: row for row in run(config, sandbox.write_crawl(config, crawl))[2]}
    broken = rows["000010001"]
    assert (broken["vec"], broken["vec_problem"], broken["vec_tokens"]) == (None, "unreadable_image", 0)
    assert (broken["vecap"], broken["vecap_from"], broken["vecap_problem"]) == ("A name", "alttext", None)
    nameless = rows["000000005"]
    assert nameless["vecap_tokens"] == 0
    assert nameless["vecap_problem"] is None
    assert nameless["vecap"] == nameless["vec"]
    assert all(row["vec"] is None or row["vec_problem"] is None for row in rows.values())


def test_the_best_available_text_becomes_the_vecap() -> None:
    assert choose("vecap", "vec", "alttext") == ("vecap", "llm")
    assert choose(None, "vec", "alttext") == ("vec", "vec")
    assert choose(None, None, "alttext") == ("alttext", "alttext")
    assert choose(None, None, None) == (None, "none")


def test_a_duplicate_image_is_captioned_once(sandbox, crawl_row) -> None:
    config = sandbox.config()
    rows = run(config, sandbox.write_crawl(config, [crawl_row(f"Name {n}", image=1) for n in range(3)]))[2]
    assert len({(row["vec"], row["vec_problem"], row["vec_tokens"]) for row in rows}) == 1


def test_reused_captions_give_the_same_bytes(sandbox, crawl, crawl_row) -> None:
    config = sandbox.config(shard_size=100)
    later = [*crawl[10:], *(crawl_row(f"New {number}", image=100 + number) for number in range(9))]
    single_rows = sandbox.write_crawl(config, later, "2026-01-02")
    _, without, _ = run(config, single_rows)
    notes = without.provenance["notes"]
    assert (notes["reused_vec"], notes["reused_vecap"]) == (0, 0)

    earlier = sandbox.write_crawl(config, crawl, "2026-01-01")
    _, first, rows = run(config, earlier)
    assert first.provenance["notes"]["reused_vec"] == 14
    fused = [row for row in rows[9:] if row["vecap_tokens"]]
    assert first.provenance["notes"]["reused_vecap"] == len(fused)

    again = sandbox.write_crawl(config, later, "2026-01-03")
    _, found, _ = run(config, again)
    assert found.provenance["notes"]["reused_vec"] == 23
    assert "vlm_captions" not in found.provenance["notes"]
    assert [(entry.path, entry.sha256) for entry in found.files] == [(e.path, e.sha256) for e in without.files]
    assert found.counters == without.counters


@pytest.mark.parametrize("change", ["prompt", "tokens", "model"])
def test_captions_of_another_model_or_prompt_are_not_reused(sandbox, crawl, save_models, tmp_path, change: str) -> None:
    config = sandbox.config(shard_size=100)
    run(config, sandbox.write_crawl(config, crawl))
    vlm = config.rewrite.vlm.model_dump()
    if change == "prompt":
        vlm["prompt"] = "describe-llava"
    elif change == "tokens":
        vlm["max_new_tokens"] = 9
    else:
        vlm["model"] = str(save_models[0](tmp_path / "other", seed=1))
    other = sandbox.config(shard_size=100, vlm=vlm)
    _, manifest, _ = run(other, sandbox.write_crawl(other, crawl, "2026-01-02"))
    assert manifest.provenance["notes"]["reused_vec"] == 0


def test_a_rejected_text_is_retried_with_another_seed_and_recorded(sandbox, crawl) -> None:
    config = sandbox.config(shard_size=100)
    _, manifest, rows = run(config, sandbox.write_crawl(config, crawl))
    all_attempts = [row["vec_attempts"] for row in rows if row["vec_problem"] != "unreadable_image"]
    assert {len(attempts) for attempts in all_attempts} == {1, 2}
    for first, *retries in all_attempts:
        assert (first["temperature"], first["seed"]) == (0, 0)
        assert (first["problem"] is None) != bool(retries)
        assert all(retry["temperature"] == 0.7 and retry["seed"] > 0 for retry in retries)
    for row in rows:
        last = row["vec_attempts"][-1]
        assert (row["vec"], row["vec_problem"]) == (row["vec_variants"][0], last["problem"])
        assert row["vec_tokens"] == sum(attempt["tokens"] for attempt in row["vec_attempts"])
        if row["vecap_from"] == "llm":
            assert row["vecap"] == row["vecap_variants"][0]
    saved = [row for row in rows if len(row["vec_attempts"]) == 2 and row["vec"]]
    assert saved
    assert len({row["vec_attempts"][1]["seed"] for row in saved}) == len(saved)
    attempts = [attempt for row in rows for text in ("vec", "vecap") for attempt in row[f"{text}_attempts"]]
    assert manifest.counters["refused"] == sum(attempt["problem"] is not None for attempt in attempts) > 0

    once = {"vlm": config.rewrite.vlm.model_dump() | {"retry_temperature": 0}}
    config = sandbox.config(shard_size=100, **once)
    _, _, without = run(config, sandbox.write_crawl(config, crawl, "2026-01-02"))
    assert {len(row["vec_attempts"]) for row in without} == {1}
    assert [row["vec"] for row in without if row["vec"]] == [
        row["vec"] for row in rows if len(row["vec_attempts"]) == 1 and row["vec"]
    ]


def sampling_config(sandbox, **more):
    def model(folder, prompt: str, variants: int):
        values = {"model": str(folder), "prompt": prompt, "max_new_tokens": 12, "batch_size": 16}
        return values | {"num_captions": variants, "temperature": 0.9}

    return sandbox.config(vlm=model(sandbox.vlm, "describe", 3), llm=model(sandbox.llm, "fuse", 2), **more)


def test_variants_do_not_depend_on_shard_or_version(sandbox, crawl, crawl_row) -> None:
    config = sampling_config(sandbox, shard_size=100)
    _, _, rows = run(config, sandbox.write_crawl(config, crawl))
    assert {len(row["vec_variants"]) for row in rows} == {3}
    assert {len(row["vecap_variants"]) for row in rows} == {0, 2}  # none without both inputs
    assert sum(len(set(row["vec_variants"])) > 1 for row in rows) > 15
    for row in rows:
        assert row["vec"] == next((text for text in row["vec_variants"] if text), None)

    small_shards = sampling_config(sandbox, shard_size=3)
    _, other, again = run(small_shards, sandbox.write_crawl(small_shards, crawl, "2026-01-02"))
    assert other.provenance["notes"]["reused_vec"] == 23  # shard_size is not a caption parameter
    texts = ("vec_variants", "vecap_variants", "vec_attempts", "vecap_attempts", "vecap")
    assert [[row[name] for name in texts] for row in again] == [[row[name] for name in texts] for row in rows]

    sandbox.folder = sandbox.folder / "elsewhere"
    single_rows = sampling_config(sandbox, shard_size=1)
    pair = [crawl_row("A Belvo 7 tulip", image=7), crawl_row("x", image=99)]
    _, fresh, few = run(single_rows, sandbox.write_crawl(single_rows, pair))
    assert fresh.provenance["notes"]["reused_vec"] == 0
    same = next(row for row in rows if row["alttext"] == "A Belvo 7 tulip")
    assert [few[0][name] for name in texts] == [same[name] for name in texts]


def test_the_alttext_is_rewritten_if_configured(sandbox, crawl) -> None:
    plain = sandbox.config(shard_size=100)
    _, _, without = run(plain, sandbox.write_crawl(plain, crawl))
    assert {row["alttext_rewritten_model"] for row in without} == {None}
    config = sandbox.config(shard_size=100, alttext_prompt="rewrite")
    stage, manifest, rows = run(config, sandbox.write_crawl(config, crawl, "2026-01-02"))
    assert [item.name for item in manifest.inputs if item.kind == "prompt"] == ["describe", "fuse", "rewrite"]
    assert [row["vecap"] for row in rows] == [row["vecap"] for row in without]
    requests = [row for row in rows if row["alttext"]]
    assert {row["alttext_rewritten_prompt"].split("@")[0] for row in rows} == {"rewrite"}
    assert all(row["alttext_rewritten_attempts"] for row in requests)
    assert any(row["alttext_rewritten"] for row in requests)
    assert all(row["alttext_rewritten"] is None or row["alttext"] for row in rows)
    assert manifest.counters["alttext_rewritten_tokens"] > 0
    assert stage.fingerprint != Rewrite(plain, stage.version).fingerprint

    _, again, _ = run(config, sandbox.write_crawl(config, crawl[:12], "2026-01-03"))
    assert again.provenance["notes"]["reused_alttext_rewritten"] == 10


def test_captions_without_attempts_are_not_reused(sandbox, crawl) -> None:
    config = sandbox.config(shard_size=100)
    stage, manifest, _ = run(config, sandbox.write_crawl(config, crawl))
    name = manifest.files_ending(".parquet")[0]
    with stage.store.open(name) as stream:
        table = pq.read_table(stream)
    new = [column for column in table.column_names if column.endswith(("_variants", "_attempts"))]
    with stage.store.workspace() as work:
        pq.write_table(table.drop_columns([*new, "alttext_rewritten"]), work / "old.parquet")
        stage.store.upload(name, work / "old.parquet")
    record_again(stage.store, manifest)
    _, again, rows = run(config, sandbox.write_crawl(config, crawl, "2026-01-02"))
    assert again.provenance["notes"]["reused_vec"] == 0
    assert [row["vec"] for row in rows] == table["vec"].to_pylist()


def test_costs_are_noted_and_do_not_change_the_digest(sandbox, crawl) -> None:
    config = sandbox.config(shard_size=100)
    _, plain, rows = run(config, sandbox.write_crawl(config, crawl))
    vlm = config.rewrite.vlm.model_dump() | {"price": {"per_hour": 3600}}
    llm = config.rewrite.llm.model_dump() | {"price": {"per_million_tokens": 2, "per_million_prompt_tokens": 1}}
    sandbox.folder = sandbox.folder / "priced"
    priced = sandbox.config(shard_size=100, vlm=vlm, llm=llm)
    _, manifest, _ = run(priced, sandbox.write_crawl(priced, crawl))
    assert manifest.digest == plain.digest
    notes = manifest.provenance["notes"]
    assert notes["vlm_tokens"] == sum(row["vec_tokens"] for row in rows)
    assert notes["llm_tokens"] == sum(row["vecap_tokens"] for row in rows)
    assert notes["vlm_captions"] == sum(len(row["vec_attempts"]) for row in rows)
    assert notes["llm_cost_millionths"] == 2 * notes["llm_tokens"] + notes["llm_prompt_tokens"]
    assert notes["vlm_cost_millionths"] == pytest.approx(1000 * notes["vlm_milliseconds"], abs=1000)
    assert "llm_cost_millionths" not in plain.provenance["notes"]


@pytest.mark.parametrize("name", ["crawl/00000.tar", "crawl/00000.parquet", "quality/verdicts/00000.parquet"])
def test_a_corrupt_input_is_named(sandbox, crawl, name) -> None:
    config = sandbox.config()
    version = sandbox.write_crawl(config, crawl)
    stage = Rewrite(config, version)
    flip_bit(stage.store, f"{version.folder}/{name}")
    with pytest.raises(CorruptError, match=rf"{name} is corrupt: .*; restore it, or delete .* and run `vecap"):
        run(config, version)
    assert stage.manifest() is None
    assert stage.receipts() == []


def test_a_missing_model_fails_before_any_work(sandbox, crawl) -> None:
    config = sandbox.config(llm={"model": "nowhere", "prompt": "fuse"})
    version = sandbox.write_crawl(config, crawl)
    with pytest.raises(VecapError, match=r"model nowhere: folder .* does not exist"):
        open_version(config, Rewrite(config, version).store, "2026-01-01")


def test_importing_the_stage_loads_no_model_library() -> None:
    import subprocess
    import sys

    code = "import sys, vecap_tasks.rewrite.stage; print({'torch', 'transformers', 'airflow'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
