"""Screening: finds problems in generated texts. Each rule returns None or the name of a problem.

    refusal, preamble  assistant talk instead of the caption; also leaks of the prompt
    shape              empty, loop, too_long, cut_off
    content            markup, url
    private            private_data
    language           language
    grounding          drops_vec, invented: only for fused captions

The rules are this project's own. They favor precision: rejecting a good caption costs as much as keeping a bad one.
`python -m benchmarks.screening` measures each rule on labeled examples. Increase `REVISION` when a change of the code,
here or in `core/private_data.py`, changes a result; changed lists count by themselves. Captions screened by another
revision or with other lists are screened again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vecap_tasks.config import ScreenConfig
from vecap_tasks.core.private_data import DATA as PRIVATE_DATA
from vecap_tasks.core.word_lists import lists_digest
from vecap_tasks.rewrite.screen.content import markup, private_data, url
from vecap_tasks.rewrite.screen.grounding import drops_vec, invented
from vecap_tasks.rewrite.screen.identification import MODEL
from vecap_tasks.rewrite.screen.language import language
from vecap_tasks.rewrite.screen.preamble import preamble, prompt_leak, refusal, without_preamble
from vecap_tasks.rewrite.screen.shape import cut_off, empty, loop, too_long
from vecap_tasks.rewrite.screen.text import DATA, Answer, Rule

REVISION = 6
STRIPPED = "preamble_stripped"
_MAX_CHARS = 4_000  # of a text that the rules read; `max_words` can raise it

_RULES: tuple[Rule, ...] = (
    *(empty, refusal, preamble, prompt_leak, markup, loop, url, private_data, language, too_long, cut_off),
    *(drops_vec, invented),
)
RULES: dict[str, Rule] = {rule.__name__: rule for rule in _RULES}

_DEFAULTS = ScreenConfig()


@dataclass(frozen=True, slots=True)
class Screened:
    """The screening result: the text, or None if it is rejected.

    `problem` is the rule that rejected it, or `preamble_stripped` for a text whose preamble was removed.
    """

    text: str | None
    problem: str | None


def screen(answer: Answer) -> Screened:
    """Apply the rules in order and return the first problem.

    A text that is far too long for a caption is `too_long` at once, even if that rule is disabled: the time that the
    other rules take grows with the text.
    """
    if len(answer.text) > max(_MAX_CHARS, 10 * answer.settings.max_words):
        return Screened(None, "too_long")
    disabled = answer.settings.disabled_rules
    stripped = None if "preamble" in disabled or not answer.settings.strip_preamble else without_preamble(answer)
    output = answer if stripped is None else replace(answer, text=stripped)
    for name, rule in RULES.items():
        problem = None if name in disabled else rule(output)
        if problem is not None:
            return Screened(None, problem)
    return Screened(output.text, None if stripped is None else STRIPPED)


def screen_vec(text: str, ended: bool, prompt: str, settings: ScreenConfig = _DEFAULTS) -> Screened:
    """Screen a VeC. *ended* is False if generation hit the token limit; *prompt* is the VLM's prompt."""
    return screen(Answer(text, ended, prompt, settings=settings))


def screen_vecap(
    text: str, ended: bool, prompt: str, alttext: str, vec: str, settings: ScreenConfig = _DEFAULTS
) -> Screened:
    """Screen a VeCap fused from *alttext* and *vec* ("" if not given); *prompt* does not include them."""
    return screen(Answer(text, ended, prompt, alttext, vec, settings))


def screen_alttext(text: str, settings: ScreenConfig = _DEFAULTS) -> Screened:
    """Screen a cleaned AltText that is to be used as a caption.

    The rules that need a model's inputs do not apply, nor does `cut_off`: AltTexts are often fragments.
    """
    skipped = {*settings.disabled_rules, "cut_off", "drops_vec", "invented"}
    return screen(Answer(text, settings=settings.model_copy(update={"disabled_rules": tuple(sorted(skipped))})))


def rules_identity() -> dict[str, Any]:
    """Return the revision of the rules and a digest of their lists and of those of private data, as JSON values."""
    return {"revision": REVISION, "lists": lists_digest(DATA, PRIVATE_DATA)}


def identity(settings: ScreenConfig) -> dict[str, Any]:
    """Return the identity of the rules and the settings, which determine all results, as JSON values.

    The model of the rule `language` is included if the rule applies. `disabled_rules` keeps its name of 0.1.0, `off`,
    so that captions of that release are reused.
    """
    names = {"disabled_rules": "off"}
    values = {names.get(name, name): value for name, value in settings.identity().items()}
    applies = settings.languages and "language" not in settings.disabled_rules
    return rules_identity() | values | ({"language_model": MODEL} if applies else {})
