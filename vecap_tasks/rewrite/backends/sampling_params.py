"""How one text is drawn from a model, and what came of it: the same words for every backend. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which variant of a text is wanted and how: greedy at temperature 0, else drawn with *seed* (63 bits)."""

    variant: int = 0
    temperature: float = 0.0
    seed: int = 0


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """What a model wrote. `tokens` counts the end token; `ended` is False where it ran into the limit.

    `problem` says why there is no text to look at: the prompt was too long, the picture unreadable, the server failed;
    `said` is what the server said then, for logs alone.
    """

    text: str
    tokens: int
    ended: bool
    prompt_tokens: int = 0
    problem: str | None = None
    said: str = ""


def flat(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass with slots by name, as they are: `asdict` copies each, at ten times the cost."""
    return {name: getattr(record, name) for name in record.__slots__}


def failed(problem: str, said: str = "") -> GeneratedText:
    """Return a text that was not written."""
    return GeneratedText("", 0, True, problem=str(problem), said=said)


def sampling_of(subject: str, prompt: str, variant: int, attempt: int, temperature: float) -> Sampling:
    """Return the draw of *subject* (an image's sha256, or texts): it follows from these words and nothing else.

    So a text is the same in whatever batch, worker or retry it comes up.
    """
    if temperature == 0:
        return Sampling(variant)
    words = hashlib.sha256("\n".join([prompt, str(variant), str(attempt), subject]).encode())
    return Sampling(variant, temperature, int.from_bytes(words.digest()[:8]) >> 1)


OnFinished = Callable[[Mapping[int, GeneratedText]], None]  # takes the texts of a batch, by their places in the request


def ignore_finished(batch: Mapping[int, GeneratedText]) -> None:
    """Take a finished batch and do nothing: for a caller who waits for them all."""
