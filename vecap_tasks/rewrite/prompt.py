"""Prompts: versioned text files of ours, and how text from the web is put into them.

A prompt is `prompts/<id>.md`, with `{alttext}` and `{vec}` where the data goes. `prompts/<id>.jinja` beside it is a
chat template for models that bring none. The wording of every prompt is this project's own, not a paper's.

AltText, and what a VLM read in a picture, is data: `clean` takes out whatever a model could take for the frame of a
conversation, and the place of a placeholder is filled once, so that braces in the data mean nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vecap_tasks.dataset.manifest import digest
from vecap_tasks.errors import ConfigError

FOLDER = Path(__file__).parent / "prompts"

_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")
_PLACE = re.compile(r"\{(alttext|vec)\}")
# How chat formats in use mark their turns, whatever the tokenizer at hand knows: ChatML and Llama 3, Llama 2, Gemma,
# image places, Alpaca's headings, and the bare words that Vicuna's format separates turns with.
_MARKERS = re.compile(
    r"<\|.*?\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos|pad|unk|image|video)>|<(?:start|end)_of_turn>"
    r"|#{2,}\s*(?:instructions?|input|response|system|human|user|assistant)\b:?|\b(?:USER|ASSISTANT|SYSTEM|HUMAN):",
    re.IGNORECASE,
)
_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text of a prompt and, where it brings one, its chat template. `digest` covers both, 64 hex digits."""

    id: str
    text: str
    template: str | None
    digest: str

    @property
    def name(self) -> str:
        """How a caption's row names the prompt: `id@` and the first 12 digits of its digest."""
        return f"{self.id}@{self.digest[:12]}"

    def fill(self, alttext: str = "", vec: str = "") -> str:
        """Return the text with the data in its places; what is put in is not looked at again."""
        values = {"alttext": alttext, "vec": vec}
        return _PLACE.sub(lambda place: values[place.group(1)], self.text)


@lru_cache(maxsize=16)
def load_prompt(name: str) -> Prompt:
    """Return the prompt *name*. Raises ConfigError where there is none, naming those that there are."""
    file = FOLDER / f"{name}.md"
    if not _ID.fullmatch(name) or not file.is_file():
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.md")))
        raise ConfigError(f"there is no prompt {name!r}; use one of {known}, or add {FOLDER / (name + '.md')}")
    text = file.read_text(encoding="utf-8").strip()
    beside = file.with_suffix(".jinja")
    template = beside.read_text(encoding="utf-8").strip() if beside.is_file() else None
    return Prompt(name, text, template, digest({"text": text, "template": template}))


def clean(text: str, special_tokens: Iterable[str], limit: int) -> str:
    """Return *text* as one line of data: no control or format characters, no token or marker of a chat format.

    It is cut to *limit* characters, at a space where one is near. Taking something out never joins what stood
    around it, so that no marker can be hidden inside another one.
    """
    line = "".join(_visible(character) for character in text)
    tokens = sorted((token for token in special_tokens if token.strip()), key=len, reverse=True)
    marks = re.compile("|".join([*(re.escape(token) for token in tokens), _MARKERS.pattern]), re.IGNORECASE)
    while (less := marks.sub(" ", line)) != line:
        line = less
    line = " ".join(line.split())
    if len(line) <= limit:
        return line
    cut = line[: limit + 1].rpartition(" ")[0]
    return cut if len(cut) > limit // 2 else line[:limit]


def _visible(character: str) -> str:
    if character in _JOINERS:
        return character
    category = unicodedata.category(character)
    if category in ("Cf", "Cs", "Co"):
        return ""
    return " " if category == "Cc" else character
