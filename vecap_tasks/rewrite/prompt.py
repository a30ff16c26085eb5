"""Prompts: versioned text files, and safe insertion of web text into them.

A prompt is `<id>.md`, in the folder `rewrite.prompts` (searched first) or in `prompts/` next to this file. `{alttext}`
and `{vec}` are placeholders for the data. `<id>.jinja` is an optional chat template for models without one. The
prompts of this project are its own, not a paper's.

AltText and VeC are untrusted data. `sanitize.clean` removes everything that a model or tokenizer could read as chat
markup. `Prompt.fill` removes what would close the data's delimiters and fills each placeholder once, so braces in the
data have no effect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vecap_tasks.core.manifest import digest
from vecap_tasks.errors import ConfigError
from vecap_tasks.rewrite.delimiters import PLACEHOLDER, close_delimiters
from vecap_tasks.rewrite.sanitize import clean, fold

Texts = tuple[str, str]  # AltText and VeC; either may be ""

FOLDER = Path(__file__).parent / "prompts"
# The placeholders of each role's prompt.
PLACEHOLDERS = {"vlm": (), "llm": ("alttext", "vec"), "alttext": ("alttext",)}

# How the code turns a prompt into a request, for a VLM (an image and the prompt) and an LLM (the prompt with cleaned
# data between its delimiters). Increase one when a change of the code changes what the model receives for the same
# input. It is a part of the prompt, so that only the texts of these requests are generated again.
VLM_REQUEST = 1
LLM_REQUEST = 1

_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")
_OLD_MARKS = frozenset("<>[]")  # of markup that release 0.1.0 removed from data, and this one may leave


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's text and optional chat template. `digest` covers both and the form of requests, 64 hex digits."""

    id: str
    text: str
    template: str | None
    digest: str

    @property
    def name(self) -> str:
        """The prompt's name in caption rows: `id@` and the first 12 digits of the digest."""
        return f"{self.id}@{self.digest[:12]}"

    def fill(self, alttext: str = "", vec: str = "") -> str:
        """Return the text with its placeholders filled by data that cannot close its delimiters.

        Inserted data is not scanned for placeholders.
        """
        values = {"alttext": close_delimiters(self.text, alttext), "vec": close_delimiters(self.text, vec)}
        return PLACEHOLDER.sub(lambda match: values[match[1]], self.text)

    def has_old_request(self, alttext: str, vec: str = "") -> bool:
        """Return whether release 0.1.0, which cleaned data in another way, made the same request from these texts.

        True only if neither that release nor this one changes the texts.
        """
        values = {"alttext": alttext, "vec": vec}
        if any(clean(text, (), len(text)) != text or not _OLD_MARKS.isdisjoint(fold(text)) for text in values.values()):
            return False
        return self.fill(alttext, vec) == PLACEHOLDER.sub(lambda match: values[match[1]], self.text)


def load_prompt(name: str, folder: Path | None = None, placeholders: tuple[str, ...] | None = None) -> Prompt:
    """Return the prompt *name* from *folder* if it exists there, otherwise from this package.

    Raises ConfigError if the prompt does not exist, is not UTF-8, or has other placeholders than *placeholders*.
    """
    folders = [FOLDER] if folder is None else [folder, FOLDER]
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"rewrite.prompts: folder {folder} does not exist; correct the path")
    files = [parent / f"{name}.md" for parent in folders]
    file = next((path for path in files if path.is_file()), None) if _ID.fullmatch(name) else None
    if file is None:
        known = ", ".join(sorted({path.stem for parent in folders for path in parent.glob("*.md")}))
        raise ConfigError(f"unknown prompt {name!r}; use one of {known}, or add {folders[0] / 'your-own.md'}")
    template_file = file.with_suffix(".jinja")
    try:
        text = file.read_text(encoding="utf-8").strip()
        template = template_file.read_text(encoding="utf-8").strip() if template_file.is_file() else None
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompt {file} or its template is not UTF-8 text; save it as UTF-8") from error
    found = set(PLACEHOLDER.findall(text))
    if not text or (placeholders is not None and found != set(placeholders)):
        required = " and ".join(f"{{{field}}}" for field in placeholders or ()) or "no placeholders"
        has = ", ".join(f"{{{field}}}" for field in sorted(found)) or ("none" if text else "no text")
        raise ConfigError(f"prompt {file} must contain {required} but has {has}; correct it or choose another")
    identity: dict[str, str | int | None] = {"text": text, "template": template}
    if (request := LLM_REQUEST if found else VLM_REQUEST) > 1:  # the first requests had no number
        identity["request"] = request
    return Prompt(name, text, template, digest(identity))
