"""Asking a model until screening is content: each variant once, and once more with another seed where it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vecap_tasks.config import ModelConfig
from vecap_tasks.rewrite.backends.sampling_params import Draw, Written, draw
from vecap_tasks.rewrite.screen import Screened

S = TypeVar("S")


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


NOT_ASKED = Caption(None, None, 0)


def write_captions(
    subjects: Sequence[tuple[S, str]],
    settings: ModelConfig,
    prompt: str,
    write: Callable[[Sequence[tuple[S, Draw]]], Iterable[Written]],
    screen: Callable[[S, Written], Screened],
) -> list[Caption]:
    """Return a caption for each of *subjects*, which come with the words that their seeds follow from.

    *prompt* is the prompt's digest, *write* asks the model, *screen* says what is left of a text.
    """
    texts: list[list[str | None]] = [[None] * settings.variants for _ in subjects]
    attempts: list[list[Attempt]] = [[] for _ in subjects]
    wanted = [(place, variant) for place in range(len(subjects)) for variant in range(settings.variants)]
    for attempt, temperature in enumerate((settings.temperature, settings.retry_temperature)):
        draws = [draw(subjects[place][1], prompt, variant, attempt, temperature) for place, variant in wanted]
        asked = [(subjects[place][0], one) for (place, _), one in zip(wanted, draws, strict=True)]
        refused = []
        for (place, variant), (subject, one), written in zip(wanted, asked, write(asked), strict=True):
            left = Screened(None, written.problem) if written.problem else screen(subject, written)
            attempts[place].append(Attempt(variant, one.temperature, one.seed, written.tokens, left.problem))
            texts[place][variant] = left.text
            if left.text is None and written.problem is None:  # else another seed would meet the same
                refused.append((place, variant))
        wanted = refused
        if not wanted or settings.retry_temperature == 0:
            break
    return [_caption(said, made) for said, made in zip(texts, attempts, strict=True)]


def _caption(texts: Sequence[str | None], attempts: Sequence[Attempt]) -> Caption:
    variant = next((number for number, text in enumerate(texts) if text), 0)
    problem = next(one.problem for one in reversed(attempts) if one.variant == variant)
    return Caption(texts[variant], problem, sum(one.tokens for one in attempts), tuple(texts), tuple(attempts))
