"""Screening: what is wrong with a text that a model wrote. Each rule answers None or the name of a problem.

    refusal, preamble, leak   an assistant talks instead of the caption
    shape     empty, loop, too_long, cut_off
    content   markup, url, private_data
    language  language
    sources   drops_vec, invented: for fused captions alone

The rules are this project's own choice, and meant to be right when they speak: a good caption that is refused costs
what a bad one costs. What each is worth on labeled examples is measured by `python -m benchmarks.screening`.
`REVISION` goes up when an answer changes; captions screened by another revision are not reused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vecap_tasks.config import ScreenConfig
from vecap_tasks.rewrite.screen.content import markup, private_data, url
from vecap_tasks.rewrite.screen.grounding import drops_vec, invented
from vecap_tasks.rewrite.screen.language import language
from vecap_tasks.rewrite.screen.preamble import preamble, prompt_leak, without_preamble
from vecap_tasks.rewrite.screen.refusal import refusal
from vecap_tasks.rewrite.screen.shape import cut_off, empty, loop, too_long
from vecap_tasks.rewrite.screen.text import Answer, Rule

REVISION = 3
STRIPPED = "preamble_stripped"

_RULES: tuple[Rule, ...] = (
    *(empty, refusal, preamble, prompt_leak, markup, loop, url, private_data, language, too_long, cut_off),
    *(drops_vec, invented),
)
RULES: dict[str, Rule] = {rule.__name__: rule for rule in _RULES}

_DEFAULTS = ScreenConfig()


@dataclass(frozen=True, slots=True)
class Screened:
    """What screening leaves: the text, None where it is refused, and what was found.

    `problem` is the name of the rule that refused it, or `preamble_stripped` beside a text that lost its introduction.
    """

    text: str | None
    problem: str | None


def screen(answer: Answer) -> Screened:
    """Apply the rules in their order; the first that speaks decides."""
    off = answer.settings.disabled_rules
    rest = None if "preamble" in off or not answer.settings.strip_preamble else without_preamble(answer)
    kept = answer if rest is None else replace(answer, text=rest)
    for name, rule in RULES.items():
        problem = None if name in off else rule(kept)
        if problem is not None:
            return Screened(None, problem)
    return Screened(kept.text, None if rest is None else STRIPPED)


def screen_vec(text: str, ended: bool, prompt: str, settings: ScreenConfig = _DEFAULTS) -> Screened:
    """Screen a VeC. *ended* is False where the model ran into its token limit; *prompt* is what it was asked."""
    return screen(Answer(text, ended, prompt, settings=settings))


def screen_vecap(
    text: str, ended: bool, prompt: str, alttext: str, vec: str, settings: ScreenConfig = _DEFAULTS
) -> Screened:
    """Screen a VeCap, fused of *alttext* and *vec*; *prompt* is without them. An empty *vec* is one not given."""
    return screen(Answer(text, ended, prompt, alttext, vec, settings))


def identity(settings: ScreenConfig) -> dict[str, Any]:
    """Return what decides screening's answers, as plain JSON values: the rules' revision and the settings."""
    return {"revision": REVISION} | settings.identity()
