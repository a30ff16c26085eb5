"""Captions from one model: each variant once, and once more with another seed where screening refuses it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from vecap_tasks.config import ModelConfig, PriceConfig
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, OnFinished, Sampling, sampling_of
from vecap_tasks.rewrite.batches import Batches, text_key
from vecap_tasks.rewrite.prompt import Prompt
from vecap_tasks.rewrite.screen import Screened

K = TypeVar("K")
S = TypeVar("S")
Generate = Callable[[Sequence[tuple[S, Sampling]], OnFinished], list[GeneratedText]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One text that a model wrote, as schema ATTEMPT has it; `problem` is what screening found in it."""

    variant: int
    temperature: float
    seed: int
    tokens: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class Caption:
    """What came of asking for a text: the first variant that passed, or None and the problem of its last attempt.

    `tokens` is what all attempts took. `attempts` is empty where there was nothing to ask.
    """

    text: str | None
    problem: str | None
    tokens: int
    variants: tuple[str | None, ...] = ()
    attempts: tuple[Attempt, ...] = ()


NOT_GENERATED = Caption(None, None, 0)


@dataclass(slots=True)
class TokenMeter:
    """Counts the texts that a model writes; `seconds` is the wall clock of the calls."""

    price: PriceConfig
    captions: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def count(self, written: Sequence[GeneratedText], begun: float) -> None:
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


@dataclass(frozen=True, slots=True)
class Captioner(Generic[S]):
    """Writes captions of a shard with one model and prompt; `role` names the prompt.

    `load` returns the function that generates texts; it is called only if there is something to write. `identify`
    returns the words that a subject's seeds and stored texts follow from, `screen` what is left of a text.
    """

    role: str
    settings: ModelConfig
    prompt: Prompt
    batches: Batches
    meter: TokenMeter
    load: Callable[[], Generate[S]]
    identify: Callable[[S], str]
    screen: Callable[[S, GeneratedText], Screened]

    def write(self, subjects: Mapping[K, S], found: Mapping[K, Caption]) -> dict[K, Caption]:
        """Return *found* and a new caption for each of *subjects* that it lacks, by key.

        Raises VecapError if the task was canceled, or if the server refused nearly all of the shard.
        """
        missing = {key: subject for key, subject in subjects.items() if key not in found}
        captions = {**found, **(self._write(missing) if missing else {})}
        if self.settings.server is not None:
            self.batches.refusals.check(self.role, [caption.problem for caption in captions.values()])
        return captions

    def _write(self, subjects: Mapping[K, S]) -> dict[K, Caption]:
        generate, settings = self.load(), self.settings
        words = {key: self.identify(subject) for key, subject in subjects.items()}
        texts: dict[K, list[str | None]] = {key: [None] * settings.num_captions for key in subjects}
        attempts: dict[K, list[Attempt]] = {key: [] for key in subjects}
        wanted = [(key, variant) for key in subjects for variant in range(settings.num_captions)]
        for number, temperature in enumerate((settings.temperature, settings.retry_temperature)):
            draws = [
                sampling_of(words[key], self.prompt.digest, variant, number, temperature) for key, variant in wanted
            ]
            asked = [(subjects[key], one) for (key, _), one in zip(wanted, draws, strict=True)]
            answers = self._generate(generate, asked)
            refused = []
            for (key, variant), (subject, one), written in zip(wanted, asked, answers, strict=True):
                left = Screened(None, written.problem) if written.problem else self.screen(subject, written)
                attempts[key].append(Attempt(variant, one.temperature, one.seed, written.tokens, left.problem))
                texts[key][variant] = left.text
                if left.text is None and written.problem is None:  # else another seed would meet the same
                    refused.append((key, variant))
            wanted = refused
            if not wanted or settings.retry_temperature == 0:
                break
        return {key: _caption(texts[key], attempts[key]) for key in subjects}

    def _generate(self, generate: Generate[S], asked: Sequence[tuple[S, Sampling]]) -> list[GeneratedText]:
        """Return a text for each of *asked*: one that an earlier try stored, else a new one."""
        keys = [text_key(self.role, self.identify(subject), one) for subject, one in asked]
        places = self.batches.missing(keys)
        if places:
            new = [keys[place] for place in places]
            begun = time.monotonic()
            finished = partial(self.batches.add_batch, self.role, new, self.settings.batch_size)
            written = generate([asked[place] for place in places], finished)
            self.meter.count(written, begun)
            self.batches.add_all(self.role, new, written)
        return [self.batches.texts[key] for key in keys]


def _caption(texts: Sequence[str | None], attempts: Sequence[Attempt]) -> Caption:
    variant = next((number for number, text in enumerate(texts) if text), 0)
    problem = next(one.problem for one in reversed(attempts) if one.variant == variant)
    return Caption(texts[variant], problem, sum(one.tokens for one in attempts), tuple(texts), tuple(attempts))
