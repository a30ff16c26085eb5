"""What a rule is shown: the text that a model wrote, what it was asked, and what it was given."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vecap_tasks.config import ScreenConfig
from vecap_tasks.rewrite.screen.words import words

_DEFAULTS = ScreenConfig()
_QUOTED = re.compile(r"[\"“][^\"“”]*[\"”]|(?<!\w)['‘][^'‘’]*(?:['’]\w[^'‘’]*)*['’](?!\w)")
_ALL_QUOTED = re.compile(r"\"[^\"]*\"|“[^“”]*”|'[^']*'")


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's text on one line. `ended` is False where it ran into its token limit; `prompt` is without the data.

    `alttext` and `vec` are what the LLM was given to fuse; both are empty for a VLM's answer.
    """

    text: str
    ended: bool = True
    prompt: str = ""
    alttext: str = ""
    vec: str = ""
    settings: ScreenConfig = _DEFAULTS

    @property
    def data(self) -> str:
        """What the answer may quote: a phrase that stands here is no slip of the model."""
        return f"{self.alttext}\n{self.vec}" if self.alttext or self.vec else ""

    def quotes(self, phrase: str) -> bool:
        """Whether the words of *phrase* stand in a row in the AltText or the VeC."""
        said = " ".join(words(phrase)) if self.data else ""
        return bool(said) and f" {said} " in f" {' '.join(words(self.data))} "


# A rule answers None, for a text that it keeps, or the name of what is wrong.
Rule = Callable[[Answer], str | None]


def one_of(*patterns: str) -> re.Pattern[str]:
    """Compile the *patterns* as alternatives that do not look at case."""
    return re.compile("|".join(patterns), re.IGNORECASE)


def without_quotes(text: str) -> str:
    """Return *text* without quotation marks around all of it."""
    return text[1:-1].strip() if _ALL_QUOTED.fullmatch(text) else text


def unquoted(text: str) -> str:
    """Return *text* without what stands in quotation marks: the words of a sign, not of who describes it."""
    return _QUOTED.sub(" … ", without_quotes(text))
