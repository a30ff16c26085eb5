"""Captions from one model: generate each variant once, and retry once with another seed if screening rejects it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from vecap_tasks.config import ModelConfig, PriceConfig
from vecap_tasks.core.manifest import COST_NOTE
from vecap_tasks.core.private_data import has_private_data
from vecap_tasks.errors import OutageError
from vecap_tasks.outages import no_waiting
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, OnFinished, Sampling, sampling_of
from vecap_tasks.rewrite.batches import Batches, text_key
from vecap_tasks.rewrite.prompt import Prompt
from vecap_tasks.rewrite.screen import Screened

_MAX_STORED_CHARS = 16_384  # of an answer before screening; a longer one is no caption

K = TypeVar("K")
S = TypeVar("S")
Generate = Callable[[Sequence[tuple[S, Sampling]], OnFinished], list[GeneratedText]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One generated text, as in schema ATTEMPT; `problem` is the screening result.

    `text` is the answer before screening, so that changed rules screen it again; None if it is not stored: it is too
    long or has private data.
    """

    variant: int
    temperature: float
    seed: int
    tokens: int
    problem: str | None
    text: str | None = None
    ended: bool | None = None


@dataclass(frozen=True, slots=True)
class Caption:
    """The first variant that passed screening, or None with the problem of its last attempt.

    `tokens` is the sum over all attempts. `attempts` is empty if nothing was generated.
    """

    text: str | None
    problem: str | None
    tokens: int
    variants: tuple[str | None, ...] = ()
    attempts: tuple[Attempt, ...] = ()


NOT_GENERATED = Caption(None, None, 0)


@dataclass(slots=True)
class TokenMeter:
    """Counts a model's generated texts; `seconds` is the wall-clock time of the calls."""

    price: PriceConfig
    captions: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def count(self, texts: Sequence[GeneratedText], started: float) -> None:
        """Add *texts* generated since *started*, a `time.monotonic` value."""
        self.seconds += time.monotonic() - started
        self.captions += len(texts)
        self.prompt_tokens += sum(text.prompt_tokens for text in texts)
        self.tokens += sum(text.tokens for text in texts)

    @property
    def cost(self) -> float:
        """The cost so far, in the currency of `price`."""
        price = self.price
        by_token = self.prompt_tokens * price.per_million_prompt_tokens + self.tokens * price.per_million_tokens
        return by_token / 1e6 + self.seconds * price.per_hour / 3600

    def notes(self, role: str) -> dict[str, int]:
        """Return integers that can be summed over shards; the cost is in millionths. Empty if no text was generated."""
        if not self.captions:
            return {}
        notes = {
            f"{role}_captions": self.captions,
            f"{role}_prompt_tokens": self.prompt_tokens,
            f"{role}_tokens": self.tokens,
            f"{role}_milliseconds": round(self.seconds * 1e3),
        }
        if self.cost:
            notes[f"{role}{COST_NOTE}"] = round(self.cost * 1e6)
        return notes

    def rates(self, role: str) -> str:
        """Return the throughput and cost as a log line."""
        seconds = max(self.seconds, 1e-3)
        rates = f"{role}: {self.captions / seconds:.1f} captions/s, {self.tokens / seconds:.1f} tokens/s"
        return f"{rates}, cost {self.cost:.6f}" if self.cost else rates


@dataclass(frozen=True, slots=True)
class Captioner(Generic[S]):
    """Generates the captions of a shard with one model and prompt; `role` names the prompt.

    `load` returns the generation function and is called only if a caption is missing. `identify` returns the string
    from which a subject's seeds and stored texts are keyed. `screen` screens one generated text.
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
        """Return *found* plus a new caption for each missing one of *subjects*, by key.

        Raises VecapError if the task is canceled or if the server rejected more of the shard than `max_rejected`.
        """
        missing = {key: subject for key, subject in subjects.items() if key not in found}
        captions = {**found, **(self._write(missing) if missing else {})}
        if self.settings.server is not None:
            self.batches.rejected.check(self.role, [caption.problem for caption in captions.values()])
        return captions

    def _write(self, subjects: Mapping[K, S]) -> dict[K, Caption]:
        generate, settings = self.load(), self.settings
        ids = {key: self.identify(subject) for key, subject in subjects.items()}
        texts: dict[K, list[str | None]] = {key: [None] * settings.num_captions for key in subjects}
        attempts: dict[K, list[Attempt]] = {key: [] for key in subjects}
        pending = [(key, variant) for key in subjects for variant in range(settings.num_captions)]
        for number, temperature in enumerate((settings.temperature, settings.retry_temperature)):
            requests = [
                (subjects[key], sampling_of(ids[key], self.prompt.digest, variant, number, temperature))
                for key, variant in pending
            ]
            results = self._generate(generate, requests)
            rejected = []
            for (key, variant), (subject, sampling), result in zip(pending, requests, results, strict=True):
                screened = Screened(None, result.problem) if result.problem else self.screen(subject, result)
                attempts[key].append(_attempt(sampling, result, screened.problem))
                texts[key][variant] = screened.text
                if screened.text is None and result.problem is None:  # another seed cannot fix a generation problem
                    rejected.append((key, variant))
            pending = rejected
            if not pending or settings.retry_temperature == 0:
                break
        return {key: _caption(texts[key], attempts[key]) for key in subjects}

    def _generate(self, generate: Generate[S], requests: Sequence[tuple[S, Sampling]]) -> list[GeneratedText]:
        """Return a text for each of *requests*: one that an earlier attempt or version stored, or a new one."""
        keys = [text_key(self.role, self.identify(subject), sampling) for subject, sampling in requests]
        indices = self.batches.missing(keys)
        if indices:
            missing = [keys[index] for index in indices]
            started = time.monotonic()
            on_finished = partial(self.batches.add_batch, self.role, missing, self.settings.batch_size)
            with ExitStack() as stack:
                stack.callback(self.batches.store_pending, self.role)
                try:
                    texts = generate([requests[index] for index in indices], on_finished)
                except OutageError:
                    stack.enter_context(no_waiting())  # storage may be what is away
                    raise
            self.meter.count(texts, started)
            self.batches.add_all(self.role, missing, texts)
        return [self.batches.texts[key] for key in keys]


def _attempt(sampling: Sampling, result: GeneratedText, problem: str | None) -> Attempt:
    is_stored = result.problem is None and len(result.text) <= _MAX_STORED_CHARS and not has_private_data(result.text)
    text, ended = (result.text, result.ended) if is_stored else (None, None)
    seed = sampling.seed if result.seed is None else result.seed
    return Attempt(sampling.variant, sampling.temperature, seed, result.tokens, problem, text, ended)


def _caption(texts: Sequence[str | None], attempts: Sequence[Attempt]) -> Caption:
    variant = next((number for number, text in enumerate(texts) if text), 0)
    problem = next(attempt.problem for attempt in reversed(attempts) if attempt.variant == variant)
    return Caption(texts[variant], problem, sum(attempt.tokens for attempt in attempts), tuple(texts), tuple(attempts))
