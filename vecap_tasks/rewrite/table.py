"""The table of captions: a row for each accepted row, with provenance, screening result, tokens and cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vecap_tasks.config import PriceConfig
from vecap_tasks.core.schemas import CAPTIONS
from vecap_tasks.rewrite.backends.sampling_params import Written, flat
from vecap_tasks.rewrite.reuse import Captions, Writer, Writers
from vecap_tasks.rewrite.rows import Row
from vecap_tasks.rewrite.screen import STRIPPED
from vecap_tasks.rewrite.second_try import NOT_ASKED, Caption


@dataclass(slots=True)
class Meter:
    """Counts the texts that a model writes; `seconds` is the wall clock of the calls."""

    price: PriceConfig
    captions: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def count(self, written: Sequence[Written], begun: float) -> None:
        """Add what was written since *begun*, a time of `time.monotonic`."""
        self.seconds += time.monotonic() - begun
        self.captions += len(written)
        self.prompt_tokens += sum(one.prompt_tokens for one in written)
        self.tokens += sum(one.tokens for one in written)

    @property
    def cost(self) -> float:
        """Return the price of the work, in the currency of the prices."""
        price = self.price
        by_token = self.prompt_tokens * price.per_million_prompt_tokens + self.tokens * price.per_million_tokens
        return by_token / 1e6 + self.seconds * price.per_hour / 3600

    def notes(self, role: str) -> dict[str, int]:
        """Return whole numbers that can be added up over shards; the cost is in millionths. Empty without work."""
        if not self.captions:
            return {}
        made = {
            f"{role}_captions": self.captions,
            f"{role}_prompt_tokens": self.prompt_tokens,
            f"{role}_tokens": self.tokens,
            f"{role}_milliseconds": round(self.seconds * 1e3),
        }
        if self.cost:
            made[f"{role}_cost_millionths"] = round(self.cost * 1e6)
        return made

    def rates(self, role: str) -> str:
        """Say how fast it went, for a log line."""
        seconds = max(self.seconds, 1e-3)
        said = f"{role}: {self.captions / seconds:.1f} captions/s, {self.tokens / seconds:.1f} tokens/s"
        return f"{said}, cost {self.cost:.6f}" if self.cost else said


_SIDES = ("vec", "vecap", "alttext_rewritten")


def caption_table(rows: Sequence[Row], made: Captions, writers: Writers) -> pa.Table:
    """Return the captions of *rows*, schema CAPTIONS, in their order."""
    seen = [made.vec[row.sha256] for row in rows]
    fused = [
        made.vecap[row.alttext, one.text] if row.alttext and one.text else NOT_ASKED
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
        alone = [made.alttext_rewritten[row.alttext] if row.alttext else NOT_ASKED for row in rows]
        columns["alttext_rewritten"] = [one.text for one in alone]
        columns |= _side("alttext_rewritten", alone, writers.alttext_rewritten)
    return pa.table([pa.array(columns.get(field.name, [None] * len(rows)), field.type) for field in CAPTIONS], CAPTIONS)


def _side(side: str, captions: Sequence[Caption], writer: Writer) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        f"{side}_problem": [one.problem for one in captions],
        f"{side}_tokens": [one.tokens for one in captions],
        f"{side}_variants": [one.variants for one in captions],
        f"{side}_attempts": [[flat(attempt) for attempt in one.attempts] for one in captions],
    }
    return columns | {f"{side}_{name}": [getattr(writer, name)] * len(captions) for name in Writer.__slots__}


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
