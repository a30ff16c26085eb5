"""Prompts: versioned text files, and safe insertion of web text into them.

A prompt is `<id>.md`, in the folder `rewrite.prompts` (searched first) or in `prompts/` next to this file. `{alttext}`
and `{vec}` are placeholders for the data. `<id>.jinja` is an optional chat template for models without one. The
prompts of this project are its own, not a paper's.

AltText and VeC are untrusted data. `clean` removes everything that a model or tokenizer could read as chat markup.
`Prompt.fill` removes what would close the data's delimiters and fills each placeholder once, so braces in the data
have no effect.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from vecap_tasks.core.manifest import digest
from vecap_tasks.errors import ConfigError

Texts = tuple[str, str]  # AltText and VeC; either may be ""

FOLDER = Path(__file__).parent / "prompts"
# The placeholders of each role's prompt.
PLACEHOLDERS = {"vlm": (), "llm": ("alttext", "vec"), "alttext": ("alttext",)}

_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LABEL = re.compile(r"^[^\S\n]*([^\n{}:]{1,40}?)[^\S\n]*:[^\n]*\{(?:alttext|vec)\}", re.MULTILINE)
_OPENING = re.compile(r"(?:<([\w-]+)>|([\"“«`]))\s*$")
_CLOSING = {'"': '"“”„‟', "“": '"“”„‟', "«": "«»", "`": "`"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's text and optional chat template. `digest` covers both, 64 hex digits."""

    id: str
    text: str
    template: str | None
    digest: str

    @property
    def name(self) -> str:
        """The prompt's name in caption rows: `id@` and the first 12 digits of the digest."""
        return f"{self.id}@{self.digest[:12]}"

    def fill(self, alttext: str = "", vec: str = "") -> str:
        """Return the text with its placeholders filled; inserted data is not scanned for placeholders.

        Data cannot close its delimiters: if a tag or quotation mark opens before a placeholder, the tag is removed
        from the data and quotation marks become apostrophes. A label on a placeholder's line ("Alt text:") loses its
        colon in the data.
        """
        values = {"alttext": alttext, "vec": vec}
        labels = "|".join(r"\s+".join(map(re.escape, label.split())) for label in _LABEL.findall(self.text))
        if labels:
            colon = re.compile(rf"\b({labels})\s*[:：]", re.IGNORECASE)
            values = {name: colon.sub(r"\1", value) for name, value in values.items()}

        def replace(match: re.Match[str]) -> str:
            value = values[match.group(1)]
            opening = _OPENING.search(self.text, 0, match.start())
            return _remove_closing(value, opening) if opening else value

        return _PLACEHOLDER.sub(replace, self.text)


def _remove_closing(value: str, opening: re.Match[str]) -> str:
    """Return *value* without anything that closes the tag or quotation opened before its placeholder."""
    tag, quote = opening.groups()
    if quote:
        return value.translate(dict.fromkeys(map(ord, _CLOSING[quote]), "'"))
    return _remove(value, re.compile(rf"<\s*/?\s*{re.escape(tag)}\s*/?\s*>", re.IGNORECASE))


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
    found = set(_PLACEHOLDER.findall(text))
    if not text or (placeholders is not None and found != set(placeholders)):
        required = " and ".join(f"{{{field}}}" for field in placeholders or ()) or "no placeholders"
        has = ", ".join(f"{{{field}}}" for field in sorted(found)) or ("none" if text else "no text")
        raise ConfigError(f"prompt {file} must contain {required} but has {has}; correct it or choose another")
    return Prompt(name, text, template, digest({"text": text, "template": template}))


# Turn markers of common chat formats, also those of other tokenizers, and prompt markup.
_ROLE = "user|assistant|system|human|model|bot|gpt|ai|tool|function|developer|instructions?|response"
_MARKERS = (
    # ChatML, Llama 3, Phi, Zephyr, Command, Granite, Harmony, DeepSeek, Qwen
    r"<\|.*?\|>|<\|[\w▁ ]*>|<[\w▁ ]*\|>",
    # Llama 2, Mistral, BERT, GLM
    r"<</?SYS>>|\[/?(?:INST|SYS|SYSTEM(?:_PROMPT|_MESSAGE)?|USER|ASSISTANT|HUMAN|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS"
    r"|TOOL_CONTENT|IMG|IMG_BREAK|IMG_END|PREFIX|SUFFIX|MIDDLE|CLS|SEP|MASK|PAD|UNK|BOS|EOS|g?MASK|sMASK)\]",
    # Llama, Gemma, T5, BLOOM, LLaVA, InternLM, Baichuan, reasoning and tools; and tags of prompts
    r"</?(?:s|bos|eos|pad|unk|mask|sep|cls|image|images|video|audio|img|im_start|im_end|im_patch|eod|eop|sop|eoh|eoa|eom"
    r"|eot|unused\d*|extra_id_\d+|reserved_?\w*|fim_\w+|start_of_\w+|end_of_\w+|tool_\w+|function\w*|think|thinking|sys"
    rf"|{_ROLE}|prompt|context|data|alt_?text|description|vec|caption|document|input|output|answer|example|text"
    r"|message|messages|turn|role|instruction\w*)(?:\s[^<>]*)?/?>",
    # Alpaca's headings, other fences; runs of brackets and very long words, which flood a model
    r"#{2,}|`{3,}|\"{3,}|'{3,}|[-=*_~<>|()\[\]{}]{4,}|[a-z0-9]{81,}",
    # Vicuna, Claude 2, OpenChat and other formats that mark a turn by a word and a colon
    rf"\b(?:{_ROLE}|alt[- ]?text|description|caption|vec)\s*(?P<colon>:)",
)
_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # letters without a visible glyph
_MAX_COMBINING = 3  # combining characters per letter
# Look-alikes that Unicode does not list as compatibility characters.
_LOOK_ALIKE = (
    ("<", "‹〈⟨❬❮❰《ᐸ˂≺≤"),
    (">", "›〉⟩❭❯❱》ᐳ˃≻≥"),
    ("|", "¦ǀ│┃∣❘❙⎪ǁ∥‖"),
    ("[", "【〔⟦〚"),
    ("]", "】〕⟧〛"),
    (":", "ː꞉∶׃։"),
    ("/", "⁄∕⟋╱"),
    ("_", "▁ˍ"),
    ("#", "♯⌗"),
    ("ABCEHIJKMNOPSTXYZ", "АВСЕНІЈКМΝОРЅТХΥΖ"),
    ("abceghijklmnopqrstuvwxyz", "аЬсеɡһіјκӏмпорԛгѕтυνԝхуᴢ"),
    ("ABEHIKMOPTX", "ΑΒΕΗΙΚΜΟΡΤΧ"),
    ("aeinopsuvy", "αеιηορѕυνγ"),
)


def _ascii_equivalents() -> Iterator[tuple[int, str]]:
    for block in ((0x2100, 0x2150), (0x2460, 0x2500), (0xFE30, 0xFE70), (0xFF00, 0xFFF0), (0x1D400, 0x1D800)):
        for code in range(*block):
            plain = unicodedata.normalize("NFKC", chr(code))
            if len(plain) == 1 and plain.isascii():
                yield code, plain
    for plain, look_alikes in _LOOK_ALIKE:
        for index, character in enumerate(look_alikes):
            yield ord(character), plain[index] if len(plain) > 1 else plain


_ASCII = dict(_ascii_equivalents())


def clean(text: str, special_tokens: Iterable[str], limit: int) -> str:
    """Return *text* as one line of data without control or format characters, special tokens and chat markers.

    Markers are also found if they are written with look-alikes of other scripts or with combining or joining
    characters. Removal inserts a space, so the text around a marker cannot form a new one. The line is cut to *limit*
    characters, at a space if one is near.
    """
    visible = "".join(islice(_visible(text), 4 * limit))
    line = _remove(" ".join(visible.split()), _marker_pattern(tuple(special_tokens)))
    line = " ".join(line.split())
    if len(line) <= limit:
        return line
    cut = line[: limit + 1].rpartition(" ")[0]
    return cut if len(cut) > limit // 2 else line[:limit]


@lru_cache(maxsize=8)
def _marker_pattern(special_tokens: tuple[str, ...]) -> re.Pattern[str]:
    tokens = sorted((_to_ascii(token)[0] for token in special_tokens if token.strip()), key=len, reverse=True)
    return re.compile("|".join([*(re.escape(token) for token in tokens), *_MARKERS]), re.IGNORECASE)


def _remove(line: str, marks: re.Pattern[str]) -> str:
    """Return *line* with each of *marks* replaced by a space, repeatedly; of a role marker only the colon goes."""
    while True:
        plain, positions = _to_ascii(line)
        kept, end = [], 0
        for match in marks.finditer(plain):
            colon = match.start("colon") if "colon" in marks.groupindex and match["colon"] else match.start()
            kept.append(line[end : positions[colon]])
            end = positions[match.end() - 1] + 1
        if not kept:
            return line
        line = " ".join([*kept, line[end:]])


def _to_ascii(text: str) -> tuple[str, list[int]]:
    """Return *text* with look-alikes as ASCII and without joiners, and the position of each character in *text*."""
    characters, positions = [], []
    for position, character in enumerate(text):
        if not character.isascii():
            character = _ASCII.get(ord(character), character)
            if character in _JOINERS or unicodedata.combining(character):
                continue
        characters.append(character)
        positions.append(position)
    return "".join(characters), positions


def _visible(text: str) -> Iterator[str]:
    """Yield the visible characters, and a space for each separator."""
    before, marks = " ", 0
    for character in text:
        if character.isascii():
            shown = character if character.isprintable() else " "
        elif character in _JOINERS:
            shown = "" if before.isascii() else character
        else:
            shown = _visible_character(character)
        marks = marks + 1 if unicodedata.combining(character) else 0
        if shown and marks <= _MAX_COMBINING:
            before = shown
            yield shown


def _visible_character(character: str) -> str:
    if character in _BLANK or unicodedata.category(character) in ("Cc", "Zl", "Zp", "Zs"):
        return " "
    selector = "\ufe00" <= character <= "\ufe0d" or "\U000e0100" <= character <= "\U000e01ef"
    return "" if selector or unicodedata.category(character) in ("Cf", "Cs", "Co", "Cn") else character
