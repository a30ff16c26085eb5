"""Sampling parameters and results of one generated text, shared by all backends. Does not import torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample one variant of a text: greedy at temperature 0, otherwise with *seed* (63 bits)."""

    variant: int = 0
    temperature: float = 0.0
    seed: int = 0


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """A generated text. `tokens` includes the end token; `ended` is False at the token limit.

    `problem` states why there is no text: the prompt is too long, the image is unreadable, or the server failed.
    `message` is the server's error, for logs only. `seed` is the seed that gave the text if it is not the requested
    one: release 0.1.0 derived the seeds of a VeC from the downloaded image.
    """

    text: str
    tokens: int
    ended: bool
    prompt_tokens: int = 0
    problem: str | None = None
    message: str = ""
    seed: int | None = None


def flat(record: Any) -> dict[str, Any]:
    """Return the fields of a slotted dataclass by name. `asdict` copies each value, which takes ten times as long."""
    return {name: getattr(record, name) for name in record.__slots__}


def failed(problem: str, message: str = "") -> GeneratedText:
    """Return the result of a failed generation."""
    return GeneratedText("", 0, True, problem=str(problem), message=message)


def sampling_of(subject: str, prompt: str, variant: int, attempt: int, temperature: float) -> Sampling:
    """Return the sampling parameters of *subject* (the sha256 of a stored image, or texts).

    The seed depends only on the arguments, so a text is the same in every batch, worker and retry.
    """
    if temperature == 0:
        return Sampling(variant)
    digest = hashlib.sha256("\n".join([prompt, str(variant), str(attempt), subject]).encode())
    return Sampling(variant, temperature, int.from_bytes(digest.digest()[:8]) >> 1)


OnFinished = Callable[[Mapping[int, GeneratedText]], None]  # takes the texts of a batch by request index


def ignore_finished(batch: Mapping[int, GeneratedText]) -> None:
    """Ignore a finished batch, for callers that need only the full result."""
