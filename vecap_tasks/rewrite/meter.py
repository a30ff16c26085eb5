"""What a model's work took and cost: notes of a shard's receipt, that enter no digest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from vecap_tasks.config import PriceConfig
from vecap_tasks.rewrite.draw import Written


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
