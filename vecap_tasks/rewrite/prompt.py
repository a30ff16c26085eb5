"""Prompts: versioned text files, and how text from the web is put into them.

A prompt is `<id>.md`, in `prompts/` beside this file or in a folder of the user's own (`rewrite.prompts`), looked
into first. `{alttext}` and `{vec}` say where the data goes. `<id>.jinja` beside it is a chat template for models that
bring none. The wording of every prompt that comes with this project is its own, not a paper's.

AltText, and what a VLM read in a picture, is data: `clean` takes out whatever a model or a tokenizer could take for the
frame of a conversation, `Prompt.fill` what would end the place that the data has in the prompt, and a place is filled
once, so that braces in the data mean nothing.
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
# What the prompt of a role must hold, and nothing else.
PLACES = {"vlm": (), "llm": ("alttext", "vec"), "alttext": ("alttext",)}

_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")
_PLACE = re.compile(r"\{(\w+)\}")
_LABEL = re.compile(r"^[^\S\n]*([^\n{}:]{1,40}?)[^\S\n]*:[^\n]*\{(?:alttext|vec)\}", re.MULTILINE)
_OPENED = re.compile(r"(?:<([\w-]+)>|([\"“«`]))\s*$")
_CLOSES = {'"': '"“”„‟', "“": '"“”„‟', "«": "«»", "`": "`"}


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
        """Return the text with the data in its places; what is put in is not looked at again.

        Data cannot end its place: where the prompt opens a tag or a quotation before it, the tag is taken out of the
        data and quotation marks become apostrophes; and a label that the prompt has on the line of a place ("Alt
        text:") loses its colon in the data.
        """
        values = {"alttext": alttext, "vec": vec}
        labels = "|".join(r"\s+".join(map(re.escape, label.split())) for label in _LABEL.findall(self.text))
        if labels:
            colon = re.compile(rf"\b({labels})\s*[:：]", re.IGNORECASE)
            values = {name: colon.sub(r"\1", value) for name, value in values.items()}

        def put(place: re.Match[str]) -> str:
            value = values[place.group(1)]
            opened = _OPENED.search(self.text, 0, place.start())
            return _held(value, opened) if opened else value

        return _PLACE.sub(put, self.text)


def _held(value: str, opened: re.Match[str]) -> str:
    """Return *value* without what closes the tag or the quotation that stands before its place."""
    tag, quote = opened.groups()
    if quote:
        return value.translate(dict.fromkeys(map(ord, _CLOSES[quote]), "'"))
    return _without(value, re.compile(rf"<\s*/?\s*{re.escape(tag)}\s*/?\s*>", re.IGNORECASE))


def load_prompt(name: str, folder: Path | None = None, places: tuple[str, ...] | None = None) -> Prompt:
    """Return the prompt *name*, from *folder* where it has one, else from this package.

    Raises ConfigError where there is none, naming those that there are, and where it has other places for data than
    *places*.
    """
    folders = [FOLDER] if folder is None else [folder, FOLDER]
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"rewrite.prompts: there is no folder {folder}; correct the path")
    files = [place / f"{name}.md" for place in folders]
    file = next((one for one in files if one.is_file()), None) if _ID.fullmatch(name) else None
    if file is None:
        known = ", ".join(sorted({path.stem for place in folders for path in place.glob("*.md")}))
        raise ConfigError(f"there is no prompt {name!r}; use one of {known}, or add {folders[0] / 'your-own.md'}")
    beside = file.with_suffix(".jinja")
    try:
        text = file.read_text(encoding="utf-8").strip()
        template = beside.read_text(encoding="utf-8").strip() if beside.is_file() else None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the prompt {file} or its template is not UTF-8 text; save it as UTF-8") from error
    found = set(_PLACE.findall(text))
    if not text or (places is not None and found != set(places)):
        wanted = " and ".join(f"{{{place}}}" for place in places or ()) or "no places for data"
        has = ", ".join(f"{{{place}}}" for place in sorted(found)) or ("none" if text else "no text")
        raise ConfigError(f"the prompt {file} must hold {wanted}, and has {has}; correct it, or choose another")
    return Prompt(name, text, template, digest({"text": text, "template": template}))


# How chat formats in use mark their turns, whatever the tokenizer at hand knows; and markup that prompts are made of.
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
    # Alpaca's headings, other fences, and what only floods a model: rows of brackets, words without an end
    r"#{2,}|`{3,}|\"{3,}|'{3,}|[-=*_~<>|()\[\]{}]{4,}|[a-z0-9]{81,}",
    # Vicuna, Claude 2, OpenChat, and whoever else marks a turn by a bare word: the colon makes it one
    rf"\b(?:{_ROLE}|alt[- ]?text|description|caption|vec)\s*(?P<colon>:)",
)
_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # letters that show nothing
_MOST_MARKS = 3  # combining characters upon one letter
# Characters that pass for others, besides those that Unicode itself calls compatible.
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


def _folded_characters() -> Iterator[tuple[int, str]]:
    for block in ((0x2100, 0x2150), (0x2460, 0x2500), (0xFE30, 0xFE70), (0xFF00, 0xFFF0), (0x1D400, 0x1D800)):
        for code in range(*block):
            plain = unicodedata.normalize("NFKC", chr(code))
            if len(plain) == 1 and plain.isascii():
                yield code, plain
    for plain, others in _LOOK_ALIKE:
        for place, other in enumerate(others):
            yield ord(other), plain[place] if len(plain) > 1 else plain


_FOLD = dict(_folded_characters())


def clean(text: str, special_tokens: Iterable[str], limit: int) -> str:
    """Return *text* as one line of data: no control or format characters, no token or marker of a chat format.

    Markers are found as they look: through look-alikes of other scripts, and combining or joining characters between
    their letters. Taking one out never joins what stood around it, so that none can be hidden inside another. The
    line is cut to *limit* characters, at a space where one is near.
    """
    shown = "".join(islice(_visible(text), 4 * limit))
    line = _without(" ".join(shown.split()), _marks(tuple(special_tokens)))
    line = " ".join(line.split())
    if len(line) <= limit:
        return line
    cut = line[: limit + 1].rpartition(" ")[0]
    return cut if len(cut) > limit // 2 else line[:limit]


@lru_cache(maxsize=8)
def _marks(special_tokens: tuple[str, ...]) -> re.Pattern[str]:
    tokens = sorted((_fold(token)[0] for token in special_tokens if token.strip()), key=len, reverse=True)
    return re.compile("|".join([*(re.escape(token) for token in tokens), *_MARKERS]), re.IGNORECASE)


def _without(line: str, marks: re.Pattern[str]) -> str:
    """Return *line* with a space for each of the *marks*, again until there is none; of a role its colon alone goes."""
    while True:
        folded, places = _fold(line)
        kept, end = [], 0
        for match in marks.finditer(folded):
            colon = match.start("colon") if "colon" in marks.groupindex and match["colon"] else match.start()
            kept.append(line[end : places[colon]])
            end = places[match.end() - 1] + 1
        if not kept:
            return line
        line = " ".join([*kept, line[end:]])


def _fold(text: str) -> tuple[str, list[int]]:
    """Return *text* as it looks in ASCII where it does, without characters that add nothing, and where each stood."""
    characters, places = [], []
    for place, character in enumerate(text):
        if not character.isascii():
            character = _FOLD.get(ord(character), character)
            if character in _JOINERS or unicodedata.combining(character):
                continue
        characters.append(character)
        places.append(place)
    return "".join(characters), places


def _visible(text: str) -> Iterator[str]:
    """Give the characters that can be seen, a space for those that part words."""
    before, marks = " ", 0
    for character in text:
        if character.isascii():
            shown = character if character.isprintable() else " "
        elif character in _JOINERS:
            shown = "" if before.isascii() else character
        else:
            shown = _shown(character)
        marks = marks + 1 if unicodedata.combining(character) else 0
        if shown and marks <= _MOST_MARKS:
            before = shown
            yield shown


def _shown(character: str) -> str:
    if character in _BLANK or unicodedata.category(character) in ("Cc", "Zl", "Zp", "Zs"):
        return " "
    selector = "\ufe00" <= character <= "\ufe0d" or "\U000e0100" <= character <= "\U000e01ef"
    return "" if selector or unicodedata.category(character) in ("Cf", "Cs", "Co", "Cn") else character
