"""The caption table: one row per accepted row, with provenance, screening result and tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import duckdb
import pyarrow as pa

from vecap_tasks.core.schemas import CAPTIONS, KEPT, with_kept
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import create_view
from vecap_tasks.rewrite.accepted_rows import Row
from vecap_tasks.rewrite.backends.sampling_params import flat
from vecap_tasks.rewrite.captioner import NOT_GENERATED, Caption
from vecap_tasks.rewrite.reuse import CaptionProvenance, Captions, ProvenanceByText
from vecap_tasks.rewrite.screen import STRIPPED, Screened, screen_alttext

_TEXTS = ("vec", "vecap", "alttext_rewritten")


def caption_table(
    rows: Sequence[Row],
    captions: Captions,
    provenance: ProvenanceByText,
    screen_alttext: Callable[[str], Screened] = screen_alttext,
) -> pa.Table:
    """Return the captions of *rows* in row order, schema CAPTIONS, with `kept` if the rows have it.

    *screen_alttext* screens an AltText that becomes the caption because the models have no text.
    """
    vecs = [captions.vec[row.jpeg_sha256] for row in rows]
    vecaps = [
        captions.vecap[row.alttext, vec.text] if row.alttext and vec.text else NOT_GENERATED
        for row, vec in zip(rows, vecs, strict=True)
    ]
    chosen = [
        choose(vecap.text, vec.text, None if vec.text or not row.alttext else screen_alttext(row.alttext).text)
        for row, vec, vecap in zip(rows, vecs, vecaps, strict=True)
    ]
    names = ("key", "uid", "sha256", "jpeg_sha256")
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in names}
    columns["alttext"] = [row.alttext for row in rows]
    columns[KEPT.name] = [row.kept for row in rows]
    schema = with_kept(CAPTIONS, bool(rows) and rows[0].kept is not None)
    columns["vec"] = [vec.text for vec in vecs]
    columns["vecap"] = [text for text, _ in chosen]
    columns["vecap_from"] = [origin for _, origin in chosen]
    columns |= _columns("vec", vecs, provenance.vec) | _columns("vecap", vecaps, provenance.vecap)
    if provenance.alttext_rewritten:
        rewritten = [captions.alttext_rewritten[row.alttext] if row.alttext else NOT_GENERATED for row in rows]
        columns["alttext_rewritten"] = [caption.text for caption in rewritten]
        columns |= _columns("alttext_rewritten", rewritten, provenance.alttext_rewritten)
    arrays = [pa.array(columns.get(field.name, [None] * len(rows)), field.type) for field in schema]
    return pa.table(arrays, schema=schema)


def _columns(prefix: str, captions: Sequence[Caption], provenance: CaptionProvenance) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        f"{prefix}_problem": [caption.problem for caption in captions],
        f"{prefix}_tokens": [caption.tokens for caption in captions],
        f"{prefix}_variants": [caption.variants for caption in captions],
        f"{prefix}_attempts": [[flat(attempt) for attempt in caption.attempts] for caption in captions],
    }
    return columns | {f"{prefix}_{name}": [value] * len(captions) for name, value in provenance.columns().items()}


def choose(vecap: str | None, vec: str | None, alttext: str | None) -> tuple[str | None, str]:
    """Return the best available text and its origin: llm, vec, alttext or none."""
    for text, origin in ((vecap, "llm"), (vec, "vec"), (alttext, "alttext")):
        if text:
            return text, origin
    return None, "none"


def count(table: pa.Table) -> dict[str, int]:
    """Return the counters of a caption table. `refused` counts the generated texts that screening rejected.

    `refused_alttext` counts the AltTexts that screening rejected as captions, if there are any.
    """
    origins = Counter(table["vecap_from"].to_pylist())
    problems = Counter(name for text in _TEXTS for name in table[f"{text}_problem"].to_pylist() if name)
    attempts = [attempt for text in _TEXTS for row in table[f"{text}_attempts"].to_pylist() for attempt in row or ()]
    without_caption = sum(
        origin == "none" and bool(alttext)
        for origin, alttext in zip(table["vecap_from"].to_pylist(), table["alttext"].to_pylist(), strict=True)
    )
    tokens = {f"{text}_tokens": sum(filter(None, table[f"{text}_tokens"].to_pylist())) for text in _TEXTS}
    return {
        "rows": len(table),
        "captioned": origins["llm"] + origins["vec"],
        **{name: number for name, number in tokens.items() if number or name != "alttext_rewritten_tokens"},
        "refused": sum(attempt["problem"] not in (None, STRIPPED) for attempt in attempts),
        **({"refused_alttext": without_caption} if without_caption else {}),
        **{f"vecap_from.{origin}": number for origin, number in sorted(origins.items())},
        **{f"problem.{name}": number for name, number in sorted(problems.items())},
    }


def count_samples(
    connection: duckdb.DuckDBPyConnection, store: Store, tables: Sequence[str], digits: int
) -> dict[str, dict[str, int]]:
    """Return the number of rows with a VeCap of each crawl shard, by the name of each of *tables* (in *store*).

    *digits* is the length of the crawl shards' names, with which keys begin.
    """
    create_view(connection, store, "captions", tables, CAPTIONS)
    counted = connection.execute(f"""
        SELECT filename, left(key, {digits}) AS shard, count(*) FROM captions
        WHERE vecap IS NOT NULL AND vecap_from != 'none' GROUP BY ALL ORDER BY ALL""").fetchall()  # noqa: S608
    names = {store.query_path(table): PurePosixPath(table).stem for table in tables}
    samples: dict[str, dict[str, int]] = {name: {} for name in names.values()}
    for path, shard, rows in counted:
        samples[names[path]][shard] = rows
    return samples
