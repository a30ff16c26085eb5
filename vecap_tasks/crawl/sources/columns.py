"""Which column of a table of addresses holds what, told by the names that people give them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vecap_tasks.errors import failure_of

# In the order in which they are looked for, whatever their case. LAION has URL and TEXT, DataComp url and text, CC3M
# and CC12M (where somebody gave them a header) image_url and caption, RedCaps url and caption, LAION-COCO URL, TEXT
# and top_caption. Of a table with both, the AltText is taken, not what a model wrote.
_URLS = ("url", "image_url", "imageurl", "img_url", "image_link", "image", "src", "link", "key")
_ALTTEXTS = ("caption", "alttext", "alt_text", "alt", "text", "raw_caption", "org_caption", "top_caption", "title")
_SCORES = (
    "similarity", "punsafe", "pwatermark", "aesthetic", "aesthetic_score",  # LAION and its subsets
    "clip_b32_similarity_score", "clip_l14_similarity_score",  # DataComp
)  # fmt: skip
_UID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as its file has it. A `problem` says why it is none, and the rest is empty then."""

    url: str | None
    caption: str | None = None
    uid: str | None = None  # 32 hex digits, as DataComp has them
    scores: str | None = None  # as in CANDIDATES
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns that are read; None for what no column has."""

    url: str | None
    caption: str | None = None
    uid: str | None = None
    sha256: str | None = None
    scores: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        named = (self.url, self.caption, self.uid, self.sha256, *self.scores)
        return list(dict.fromkeys(name for name in named if name is not None))

    def row(self, values: Mapping[str, object]) -> Row:
        """Return what a row of these *values* says."""
        try:
            return self._row(values)
        except Exception as error:
            url = values.get(self.url or "")
            return Row(None, problem=failure_of(error, url if isinstance(url, str) else "a row").reason)

    def _row(self, values: Mapping[str, object]) -> Row:
        url, caption, uid, sha256 = (
            None if name is None else text_of(values.get(name))
            for name in (self.url, self.caption, self.uid, self.sha256)
        )
        if not (_is_unicode(url) and _is_unicode(caption)):
            return Row(None, problem="not_utf8")
        uid = uid.lower() if uid is not None and _UID.fullmatch(uid.lower()) else None
        scores = _scores(values, self.scores, sha256) if self.scores or sha256 else None
        return Row(url, caption, uid, scores)


def find_columns(
    names: Sequence[str],
    url: str | int | None = None,
    caption: str | int | None = None,
    scores: Sequence[str] | None = None,
) -> Columns:
    """Return the columns of a table that has *names*; the others name columns that need not be guessed.

    A named column that the table does not have is None.
    """
    lowered = {name.lower(): name for name in reversed(names)}  # the first of two

    def named(said: str | int | None, fast_path: Sequence[str]) -> str | None:
        if said is not None:
            return str(said) if str(said) in names else None
        return next((lowered[name] for name in fast_path if name in lowered), None)

    if scores is None:
        numbers = [lowered[name] for name in _SCORES if name in lowered]
    else:
        numbers = [name for name in scores if name in names]
    return Columns(
        named(url, _URLS),
        named(caption, _ALTTEXTS),
        named(None, ("uid",)),
        named(None, ("sha256",)),
        tuple(numbers),
    )


def text_of(value: object) -> str | None:
    """Return a cell as text; None where it holds none, as pandas' NaN."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and not math.isnan(value)):
        return str(value)
    return None


def _scores(values: Mapping[str, object], names: Sequence[str], sha256: str | None) -> str | None:
    """Return the JSON of CANDIDATES' `scores`, None where there are none; what is no number is left out.

    *sha256*, which others took of the image that they had, is kept as `source_sha256`: it need not be that of ours.
    """
    kept: dict[str, float | str] = {}
    for name in names:
        try:
            number = float(text_of(values.get(name)) or "")
        except ValueError:
            continue
        if math.isfinite(number):
            kept[name] = number
    if sha256 is not None and _SHA256.fullmatch(sha256.lower()):
        kept["source_sha256"] = sha256.lower()
    return json.dumps(kept, sort_keys=True) if kept else None


def _is_unicode(text: str | None) -> bool:
    """Say whether *text* can be written as UTF-8. Bytes that are none were read as lone surrogates."""
    if text is None or text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
