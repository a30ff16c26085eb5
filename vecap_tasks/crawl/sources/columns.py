"""Finds the URL, caption, uid and score columns of a table by their usual names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vecap_tasks.errors import failure_of

# In order of preference, case-insensitive. LAION has URL and TEXT, DataComp url and text, CC3M and CC12M (with an added
# header) image_url and caption, RedCaps url and caption, LAION-COCO URL, TEXT and top_caption. AltText is preferred to
# generated captions.
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
    """One row of a source file. If `problem` is set, the row is unusable and all other fields are None."""

    url: str | None
    caption: str | None = None
    uid: str | None = None  # 32 hex digits, as in DataComp
    scores: str | None = None  # as in CANDIDATES
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns to read; None for missing columns."""

    url: str | None
    caption: str | None = None
    uid: str | None = None
    sha256: str | None = None
    scores: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The distinct names of all columns."""
        named = (self.url, self.caption, self.uid, self.sha256, *self.scores)
        return list(dict.fromkeys(name for name in named if name is not None))

    def row(self, values: Mapping[str, object]) -> Row:
        """Return the row for *values*, by column name."""
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
    """Return the columns of a table with the column *names*. *url*, *caption* and *scores* override the detection.

    A configured column that is not in *names* is None.
    """
    lowered = {name.lower(): name for name in reversed(names)}  # the first of equal names wins

    def pick(configured: str | int | None, common: Sequence[str]) -> str | None:
        if configured is not None:
            return str(configured) if str(configured) in names else None
        return next((lowered[name] for name in common if name in lowered), None)

    if scores is None:
        numbers = [lowered[name] for name in _SCORES if name in lowered]
    else:
        numbers = [name for name in scores if name in names]
    return Columns(
        pick(url, _URLS),
        pick(caption, _ALTTEXTS),
        pick(None, ("uid",)),
        pick(None, ("sha256",)),
        tuple(numbers),
    )


def text_of(value: object) -> str | None:
    """Return a cell as text, None for empty cells such as pandas' NaN."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and not math.isnan(value)):
        return str(value)
    return None


def _scores(values: Mapping[str, object], names: Sequence[str], sha256: str | None) -> str | None:
    """Return the JSON for column `scores` of CANDIDATES, None without scores; values that are not numbers are skipped.

    *sha256* is the digest of the publisher's image and may differ from ours; it is stored as `source_sha256`.
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
    """Return whether *text* is valid Unicode. Invalid UTF-8 bytes were decoded as lone surrogates."""
    if text is None or text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
