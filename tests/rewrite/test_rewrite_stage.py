"""The stage as a user runs it: every accepted row has its captions, and says who wrote them."""

import json

import pyarrow.parquet as pq
import pytest

from tests.core.factories import flip_bit
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.schemas import CAPTIONS
from vecap_tasks.core.version import Version
from vecap_tasks.errors import CorruptError, VecapError
from vecap_tasks.rewrite.caption_table import choose
from vecap_tasks.rewrite.stage import Rewrite


def run(config, version: Version, *, shards: list[str] | None = None):
    """Run the stage here, without workers, and return it with its manifest and its rows."""
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
def crawl(given):
    """Two shards: 24 rows, of which one is refused, one has no AltText and one is no picture."""
    rows = [given(f"A Belvo {number} tulip", image=number) for number in range(24)]
    rows[3] = given("refused", accepted=False, image=3)
    rows[5] = given(None, image=5)
    rows[11] = given("A name", image=None)
    return rows


def test_every_accepted_row_has_captions_in_the_order_of_keys(place, crawl) -> None:
    config = place.config()
    stage, manifest, rows = run(config, place.lay_down(config, crawl))
    wanted = [f"{number // 10:05d}{number % 10:04d}" for number in range(24) if number != 3]
    assert [row["key"] for row in rows] == wanted
    assert [entry.rows for entry in manifest.files] == [8, 8, 7]
    assert manifest.counters["rows"] == 23
    assert sum(count for name, count in manifest.counters.items() if name.startswith("vecap_from.")) == 23
    written = [manifest.counters.get(f"vecap_from.{source}", 0) for source in ("llm", "vec")]
    assert manifest.counters["captioned"] == sum(written)
    assert manifest.counters["vec_tokens"] == sum(row["vec_tokens"] for row in rows) > 0
    problems = [row[name] for row in rows for name in ("vec_problem", "vecap_problem") if row[name]]
    assert sum(count for name, count in manifest.counters.items() if name.startswith("problem.")) == len(problems)
    assert stage.plan() == []


def test_a_row_says_who_wrote_it(place, crawl) -> None:
    config = place.config()
    stage, manifest, rows = run(config, place.lay_down(config, crawl))
    row = rows[0]
    assert row["vec_model"] == str(place.vlm)
    assert len(row["vec_revision"]) == 16
    assert row["vec_prompt"].startswith("describe@")
    assert row["vecap_prompt"].startswith("fuse@")
    parameters = json.loads(row["vec_parameters"])
    assert (parameters["max_new_tokens"], parameters["dtype"], parameters["image"]["size"]) == (12, "float32", 256)
    models = {item.name: item.digest for item in manifest.inputs if item.kind == "model"}
    assert models[str(place.vlm)].startswith(row["vec_revision"])
    assert [item.name for item in manifest.inputs if item.kind == "prompt"] == ["describe", "fuse"]
    assert stage.identity()["vlm"]["digest"] == models[str(place.vlm)]


def test_what_cannot_be_captioned_stays_with_its_reason(place, crawl) -> None:
    config = place.config()
    rows = {row["key"]: row for row in run(config, place.lay_down(config, crawl))[2]}
    broken = rows["000010001"]
    assert (broken["vec"], broken["vec_problem"], broken["vec_tokens"]) == (None, "unreadable_image", 0)
    assert (broken["vecap"], broken["vecap_from"], broken["vecap_problem"]) == ("A name", "alttext", None)
    nameless = rows["000000005"]
    assert nameless["vecap_tokens"] == 0
    assert nameless["vecap_problem"] is None
    assert nameless["vecap"] == nameless["vec"]
    assert all(row["vec"] is None or row["vec_problem"] is None for row in rows.values())


def test_the_best_text_there_is_becomes_the_vecap() -> None:
    assert choose("vecap", "vec", "alttext") == ("vecap", "llm")
    assert choose(None, "vec", "alttext") == ("vec", "vec")
    assert choose(None, None, "alttext") == ("alttext", "alttext")
    assert choose(None, None, None) == (None, "none")


def test_the_same_picture_twice_is_looked_at_once_and_says_the_same(place, given) -> None:
    config = place.config()
    rows = run(config, place.lay_down(config, [given(f"Name {n}", image=1) for n in range(3)]))[2]
    assert len({(row["vec"], row["vec_problem"], row["vec_tokens"]) for row in rows}) == 1


def test_captions_of_an_earlier_version_are_found_again_and_change_no_byte(place, crawl, given) -> None:
    config = place.config(shard_size=100)
    later = [*crawl[10:], *(given(f"New {number}", image=100 + number) for number in range(9))]
    alone = place.lay_down(config, later, "2026-01-02")
    _, without, _ = run(config, alone)
    notes = without.provenance["notes"]
    assert (notes["reused_vec"], notes["reused_vecap"]) == (0, 0)

    earlier = place.lay_down(config, crawl, "2026-01-01")
    _, first, rows = run(config, earlier)
    assert first.provenance["notes"]["reused_vec"] == 14
    fused = [row for row in rows[9:] if row["vecap_tokens"]]
    assert first.provenance["notes"]["reused_vecap"] == len(fused)

    again = place.lay_down(config, later, "2026-01-03")
    _, found, _ = run(config, again)
    assert found.provenance["notes"]["reused_vec"] == 23
    assert "vlm_captions" not in found.provenance["notes"]
    assert [(entry.path, entry.sha256) for entry in found.files] == [(e.path, e.sha256) for e in without.files]
    assert found.counters == without.counters


@pytest.mark.parametrize("change", ["prompt", "tokens", "model"])
def test_captions_of_another_writer_are_not_taken(place, crawl, save_models, tmp_path, change: str) -> None:
    config = place.config(shard_size=100)
    run(config, place.lay_down(config, crawl))
    vlm = config.rewrite.vlm.model_dump()
    if change == "prompt":
        vlm["prompt"] = "describe-llava"
    elif change == "tokens":
        vlm["max_new_tokens"] = 9
    else:
        vlm["model"] = str(save_models[0](tmp_path / "other", seed=1))
    other = place.config(shard_size=100, vlm=vlm)
    _, manifest, _ = run(other, place.lay_down(other, crawl, "2026-01-02"))
    assert manifest.provenance["notes"]["reused_vec"] == 0


def test_a_refused_text_is_written_once_more_with_another_seed_and_the_row_says_so(place, crawl) -> None:
    config = place.config(shard_size=100)
    _, manifest, rows = run(config, place.lay_down(config, crawl))
    tried = [row["vec_attempts"] for row in rows if row["vec_problem"] != "unreadable_image"]
    assert {len(attempts) for attempts in tried} == {1, 2}
    for first, *again in tried:
        assert (first["temperature"], first["seed"]) == (0, 0)
        assert (first["problem"] is None) != bool(again)
        assert all(one["temperature"] == 0.7 and one["seed"] > 0 for one in again)
    for row in rows:
        last = row["vec_attempts"][-1]
        assert (row["vec"], row["vec_problem"]) == (row["vec_variants"][0], last["problem"])
        assert row["vec_tokens"] == sum(one["tokens"] for one in row["vec_attempts"])
        if row["vecap_from"] == "llm":
            assert row["vecap"] == row["vecap_variants"][0]
    saved = [row for row in rows if len(row["vec_attempts"]) == 2 and row["vec"]]
    assert saved
    assert len({row["vec_attempts"][1]["seed"] for row in saved}) == len(saved)
    attempts = [one for row in rows for side in ("vec", "vecap") for one in row[f"{side}_attempts"]]
    assert manifest.counters["refused"] == sum(one["problem"] is not None for one in attempts) > 0

    once = {"vlm": config.rewrite.vlm.model_dump() | {"retry_temperature": 0}}
    config = place.config(shard_size=100, **once)
    _, _, without = run(config, place.lay_down(config, crawl, "2026-01-02"))
    assert {len(row["vec_attempts"]) for row in without} == {1}
    assert [row["vec"] for row in without if row["vec"]] == [
        row["vec"] for row in rows if len(row["vec_attempts"]) == 1 and row["vec"]
    ]


def varied(place, **more):
    def model(folder, prompt: str, variants: int):
        values = {"model": str(folder), "prompt": prompt, "max_new_tokens": 12, "batch_size": 16}
        return values | {"num_captions": variants, "temperature": 0.9}

    return place.config(vlm=model(place.vlm, "describe", 3), llm=model(place.llm, "fuse", 2), **more)


def test_variants_follow_from_image_prompt_and_number_and_not_from_shard_or_version(place, crawl, given) -> None:
    config = varied(place, shard_size=100)
    _, _, rows = run(config, place.lay_down(config, crawl))
    assert {len(row["vec_variants"]) for row in rows} == {3}
    assert {len(row["vecap_variants"]) for row in rows} == {0, 2}  # nothing to fuse of, or two
    assert sum(len(set(row["vec_variants"])) > 1 for row in rows) > 15
    for row in rows:
        assert row["vec"] == next((text for text in row["vec_variants"] if text), None)

    apart = varied(place, shard_size=3)
    _, other, again = run(apart, place.lay_down(apart, crawl, "2026-01-02"))
    assert other.provenance["notes"]["reused_vec"] == 23  # shard_size is no parameter of a caption
    texts = ("vec_variants", "vecap_variants", "vec_attempts", "vecap_attempts", "vecap")
    assert [[row[name] for name in texts] for row in again] == [[row[name] for name in texts] for row in rows]

    place.folder = place.folder / "elsewhere"
    alone = varied(place, shard_size=1)
    _, fresh, few = run(alone, place.lay_down(alone, [given("A Belvo 7 tulip", image=7), given("x", image=99)]))
    assert fresh.provenance["notes"]["reused_vec"] == 0
    same = next(row for row in rows if row["alttext"] == "A Belvo 7 tulip")
    assert [few[0][name] for name in texts] == [same[name] for name in texts]


def test_the_alttext_is_rewritten_alone_where_that_is_asked_for(place, crawl) -> None:
    plain = place.config(shard_size=100)
    _, _, without = run(plain, place.lay_down(plain, crawl))
    assert {row["alttext_rewritten_model"] for row in without} == {None}
    config = place.config(shard_size=100, alttext_prompt="rewrite")
    stage, manifest, rows = run(config, place.lay_down(config, crawl, "2026-01-02"))
    assert [item.name for item in manifest.inputs if item.kind == "prompt"] == ["describe", "fuse", "rewrite"]
    assert [row["vecap"] for row in rows] == [row["vecap"] for row in without]
    asked = [row for row in rows if row["alttext"]]
    assert {row["alttext_rewritten_prompt"].split("@")[0] for row in rows} == {"rewrite"}
    assert all(row["alttext_rewritten_attempts"] for row in asked)
    assert any(row["alttext_rewritten"] for row in asked)
    assert all(row["alttext_rewritten"] is None or row["alttext"] for row in rows)
    assert manifest.counters["alttext_rewritten_tokens"] > 0
    assert stage.fingerprint != Rewrite(plain, stage.version).fingerprint

    _, again, _ = run(config, place.lay_down(config, crawl[:12], "2026-01-03"))
    assert again.provenance["notes"]["reused_alttext_rewritten"] == 10


def test_captions_of_an_earlier_release_are_passed_over(place, crawl) -> None:
    config = place.config(shard_size=100)
    stage, manifest, _ = run(config, place.lay_down(config, crawl))
    name = manifest.files_ending(".parquet")[0]
    with stage.store.open(name) as stream:
        table = pq.read_table(stream)
    new = [column for column in table.column_names if column.endswith(("_variants", "_attempts"))]
    with stage.store.workspace() as work:
        pq.write_table(table.drop_columns([*new, "alttext_rewritten"]), work / "old.parquet")
        stage.store.upload(name, work / "old.parquet")
    _, again, rows = run(config, place.lay_down(config, crawl, "2026-01-02"))
    assert again.provenance["notes"]["reused_vec"] == 0
    assert [row["vec"] for row in rows] == table["vec"].to_pylist()


def test_what_it_took_and_cost_is_noted_and_changes_no_digest(place, crawl) -> None:
    config = place.config(shard_size=100)
    _, plain, rows = run(config, place.lay_down(config, crawl))
    vlm = config.rewrite.vlm.model_dump() | {"price": {"per_hour": 3600}}
    llm = config.rewrite.llm.model_dump() | {"price": {"per_million_tokens": 2, "per_million_prompt_tokens": 1}}
    place.folder = place.folder / "priced"
    priced = place.config(shard_size=100, vlm=vlm, llm=llm)
    _, manifest, _ = run(priced, place.lay_down(priced, crawl))
    assert manifest.digest == plain.digest
    notes = manifest.provenance["notes"]
    assert notes["vlm_tokens"] == sum(row["vec_tokens"] for row in rows)
    assert notes["llm_tokens"] == sum(row["vecap_tokens"] for row in rows)
    assert notes["vlm_captions"] == sum(len(row["vec_attempts"]) for row in rows)
    assert notes["llm_cost_millionths"] == 2 * notes["llm_tokens"] + notes["llm_prompt_tokens"]
    assert notes["vlm_cost_millionths"] == pytest.approx(1000 * notes["vlm_milliseconds"], abs=1000)
    assert "llm_cost_millionths" not in plain.provenance["notes"]


@pytest.mark.parametrize("name", ["crawl/00000.tar", "crawl/00000.parquet", "quality/verdicts.parquet"])
def test_one_changed_bit_of_what_it_reads_is_named(place, crawl, name) -> None:
    config = place.config()
    version = place.lay_down(config, crawl)
    stage = Rewrite(config, version)
    flip_bit(stage.store, f"{version.folder}/{name}")
    with pytest.raises(CorruptError, match=rf"{name} is corrupt: .*; restore it, or delete .* and run `vecap"):
        run(config, version)
    assert stage.manifest() is None
    assert stage.receipts() == []


def test_a_model_that_is_not_there_stops_the_stage_before_any_work(place, crawl) -> None:
    config = place.config(llm={"model": "nowhere", "prompt": "fuse"})
    version = place.lay_down(config, crawl)
    with pytest.raises(VecapError, match=r"model nowhere: folder .* does not exist"):
        open_version(config, Rewrite(config, version).store, "2026-01-01")


def test_importing_the_stage_loads_no_model_library() -> None:
    import subprocess
    import sys

    code = "import sys, vecap_tasks.rewrite.stage; print({'torch', 'transformers', 'airflow'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
