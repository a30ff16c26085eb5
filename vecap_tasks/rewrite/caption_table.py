"""The table of captions: a row for each accepted row, with provenance, screening result and tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from vecap_tasks.core.schemas import CAPTIONS
from vecap_tasks.rewrite.accepted_rows import Row
from vecap_tasks.rewrite.backends.sampling_params import flat
from vecap_tasks.rewrite.captioner import NOT_GENERATED, Caption
from vecap_tasks.rewrite.reuse import CaptionProvenance, Captions, ProvenanceByText
from vecap_tasks.rewrite.screen import STRIPPED

_SIDES = ("vec", "vecap", "alttext_rewritten")


def caption_table(rows: Sequence[Row], made: Captions, writers: ProvenanceByText) -> pa.Table:
    """Return the captions of *rows*, schema CAPTIONS, in their order."""
    seen = [made.vec[row.sha256] for row in rows]
    fused = [
        made.vecap[row.alttext, one.text] if row.alttext and one.text else NOT_GENERATED
        for row, one in zip(rows, seen, strict=True)
    ]
    chosen = [choose(two.text, one.text, row.alttext) for row, one, two in zip(rows, seen, fused, strict=True)]
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in ("key", "uid", "sha256")}
    columns["alttext"] = [row.alttext for row in rows]
    columns["vec"] = [one.text for one in seen]
    columns["vecap"] = [text for text, _ in chosen]
    columns["vecap_from"] = [origin for _, origin in chosen]
    columns |= _side("vec", seen, writers.vec) | _side("vecap", fused, writers.vecap)
    if writers.alttext_rewritten:
        alone = [made.alttext_rewritten[row.alttext] if row.alttext else NOT_GENERATED for row in rows]
        columns["alttext_rewritten"] = [one.text for one in alone]
        columns |= _side("alttext_rewritten", alone, writers.alttext_rewritten)
    return pa.table([pa.array(columns.get(field.name, [None] * len(rows)), field.type) for field in CAPTIONS], CAPTIONS)


def _side(side: str, captions: Sequence[Caption], writer: CaptionProvenance) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        f"{side}_problem": [one.problem for one in captions],
        f"{side}_tokens": [one.tokens for one in captions],
        f"{side}_variants": [one.variants for one in captions],
        f"{side}_attempts": [[flat(attempt) for attempt in one.attempts] for one in captions],
    }
    return columns | {f"{side}_{name}": [getattr(writer, name)] * len(captions) for name in CaptionProvenance.__slots__}


def choose(vecap: str | None, vec: str | None, alttext: str | None) -> tuple[str | None, str]:
    """Return the best text there is and the step that gave it: llm, vec, alttext or none."""
    for text, origin in ((vecap, "llm"), (vec, "vec"), (alttext, "alttext")):
        if text:
            return text, origin
    return None, "none"


def count(table: pa.Table) -> dict[str, int]:
    """Return the counters of a table of captions: `refused` are texts that screening did not keep."""
    origins = Counter(table["vecap_from"].to_pylist())
    problems = Counter(name for side in _SIDES for name in table[f"{side}_problem"].to_pylist() if name)
    attempts = [one for side in _SIDES for made in table[f"{side}_attempts"].to_pylist() for one in made or ()]
    tokens = {f"{side}_tokens": sum(filter(None, table[f"{side}_tokens"].to_pylist())) for side in _SIDES}
    return {
        "rows": len(table),
        "captioned": origins["llm"] + origins["vec"],
        **{name: number for name, number in tokens.items() if number or name != "alttext_rewritten_tokens"},
        "refused": sum(one["problem"] not in (None, STRIPPED) for one in attempts),
        **{f"vecap_from.{origin}": number for origin, number in sorted(origins.items())},
        **{f"problem.{name}": number for name, number in sorted(problems.items())},
    }
