"""Stored answers are screened again when only the screening changed: nothing is generated that they answer."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest

from tests.core.factories import record_again
from vecap_tasks.config import ScreenRule
from vecap_tasks.core.samples import Row as PageRow
from vecap_tasks.core.schemas import ATTEMPT, CAPTIONS, SAMPLES
from vecap_tasks.rewrite import captioner, screen
from vecap_tasks.rewrite.stage import Rewrite

LOOSE = {"disabled_rules": sorted(set(get_args(ScreenRule)) - {"empty"}), "strip_preamble": False}


def finish(stage: Rewrite) -> dict[str, int]:
    for shard in stage.plan():
        stage.run(shard)
    stage.commit()
    return {name: sum(receipt.notes.get(name, 0) for receipt in stage.receipts()) for name in NOTES}


OLD_ATTEMPT = ("variant", "temperature", "seed", "tokens", "problem")
NOTES = ("vlm_captions", "llm_captions", "rescreened", "reused_vec", "reused_vecap")


@pytest.fixture
def rows(crawl_row):
    return [*(crawl_row(f"A Belvo {n} tulip", image=n) for n in range(12)), crawl_row("A name", image=None)]


def versions(sandbox, rows, *screens: dict[str, Any], **more: Any) -> list[Rewrite]:
    """Return stages over the same rows on following days, one for each screening."""
    stages = []
    for day, settings in enumerate(screens, start=1):
        config = sandbox.config(screen=settings, **more)
        stages.append(Rewrite(config, sandbox.write_crawl(config, rows, f"2026-01-0{day}")))
    return stages


def captions(stage: Rewrite) -> list[dict[str, Any]]:
    manifest = stage.manifest()
    assert manifest is not None
    return [
        row for name in manifest.files_ending(".parquet") for row in pq.read_table(stage.store.path(name)).to_pylist()
    ]


def test_a_changed_screen_setting_generates_nothing_that_is_stored(sandbox, rows, tmp_path: Path) -> None:
    first, second = versions(sandbox, rows, {"max_words": 80}, {"max_words": 79})
    before, after = finish(first), finish(second)
    assert before["vlm_captions"] >= 12
    assert after["vlm_captions"] == after["llm_captions"] == after["reused_vec"] == 0
    assert after["rescreened"] > 0
    sandbox.folder = tmp_path / "fresh"
    (fresh,) = versions(sandbox, rows, {"max_words": 79})
    assert finish(fresh)["rescreened"] == 0
    assert captions(fresh) == captions(second)


def test_only_the_retries_of_newly_rejected_texts_are_generated(sandbox, rows) -> None:
    first, second = versions(sandbox, rows, LOOSE, {"disabled_rules": [], "max_words": 1})
    finish(first)
    notes = finish(second)
    assert {len(row["vec_attempts"]) for row in captions(first)} == {1}
    retried = sum(len(row["vec_attempts"]) == 2 for row in captions(second))
    assert retried > 0
    assert notes["vlm_captions"] == retried
    assert [row["vec_attempts"][0]["text"] for row in captions(second)] == [
        row["vec_attempts"][0]["text"] for row in captions(first)
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("REVISION", screen.REVISION + 1), ("lists_digest", lambda *packages: "changed")]
)
def test_changed_rules_and_lists_screen_again(sandbox, rows, monkeypatch, name: str, value: Any) -> None:
    first, second = versions(sandbox, rows, {}, {})
    finish(first)
    unchanged = second.fingerprint
    monkeypatch.setattr(screen, name, value)
    changed = Rewrite(second.config, second.version)
    assert changed.fingerprint != unchanged
    notes = finish(changed)
    assert notes["vlm_captions"] == notes["llm_captions"] == 0
    assert notes["rescreened"] > 0


@pytest.mark.parametrize("change", ["max_new_tokens", "model"])
def test_answers_of_other_settings_are_not_used(sandbox, rows, save_models, tmp_path: Path, change: str) -> None:
    (first,) = versions(sandbox, rows, {})
    finish(first)
    vlm = sandbox.config().rewrite.vlm.model_dump()
    vlm |= {"max_new_tokens": 11} if change == "max_new_tokens" else {"prompt": "describe-llava"}
    config = sandbox.config(screen={"max_words": 79}, vlm=vlm)
    second = Rewrite(config, sandbox.write_crawl(config, rows, "2026-01-02"))
    assert finish(second)["vlm_captions"] >= 12


def test_accepted_captions_of_tables_without_answers_are_screened_again(sandbox, rows) -> None:
    """As in tables of 0.1.0, whose attempts have no text. Only rejected answers are generated again."""
    first, second = versions(sandbox, rows, {}, {"max_words": 79})
    finish(first)
    manifest = first.manifest()
    assert manifest is not None
    for name in manifest.files_ending(".parquet"):
        table = pq.read_table(first.store.path(name))
        for side in ("vec", "vecap"):
            old = [
                [{name: attempt[name] for name in OLD_ATTEMPT} for attempt in row]
                for row in table[f"{side}_attempts"].to_pylist()
            ]
            table = table.set_column(table.column_names.index(f"{side}_attempts"), f"{side}_attempts", [old])
        pq.write_table(table, first.store.path(name))
    record_again(first.store, manifest)
    notes = finish(second)
    accepted = sum(bool(row["vec"]) for row in captions(first))
    rejected = sum(attempt["problem"] is not None for row in captions(first) for attempt in row["vec_attempts"] or ())
    assert accepted >= 8
    assert notes["vlm_captions"] <= rejected
    assert notes["rescreened"] > accepted


def test_a_very_long_answer_is_not_stored(sandbox, rows, monkeypatch) -> None:
    monkeypatch.setattr(captioner, "_MAX_STORED_CHARS", 0)
    (stage,) = versions(sandbox, rows, LOOSE)
    finish(stage)
    texts = [attempt["text"] for row in captions(stage) for attempt in row["vec_attempts"]]
    assert set(texts) <= {None, ""}


def test_answers_stay_in_the_caption_table() -> None:
    """Neither training shards nor pages have a column for them."""
    assert {field.name for field in ATTEMPT} >= {"text", "ended"}
    assert not [name for name in SAMPLES.names if "attempt" in name]
    assert not [field.name for field in fields(PageRow) if "attempt" in field.name]
    assert [name for name in CAPTIONS.names if "attempt" in name] == [
        "vec_attempts",
        "vecap_attempts",
        "alttext_rewritten_attempts",
    ]
