"""Finds the URL, caption, uid and score columns of a table by their usual names."""

from __future__ import annotations

import datetime
import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from vecap_tasks.core.json_reader import parse_json
from vecap_tasks.core.private_data import has_private_data
from vecap_tasks.errors import Failure, failure_of

log = logging.getLogger(__name__)

# In order of preference, case-insensitive. LAION has URL and TEXT, DataComp url and text, CC3M and CC12M (with an added
# header) image_url and caption, RedCaps url and caption, LAION-COCO URL, TEXT and top_caption. AltText is preferred to
# generated captions.
URLS = ("url", "image_url", "imageurl", "img_url", "image_link", "image", "src", "link", "key")
# Names of a column with file names, as in imagefolders, and of one with images, as in Hugging Face datasets.
FILES = (
    "file_name", "filename", "file", "file_path", "filepath", "path", "image_path", "image_file", "image_name",
    "image", "img", "name", "key", "url",
)  # fmt: skip
IMAGES = ("image", "img", "jpg", "png", "picture", "photo", "image_bytes", "bytes")
FILE_NAME = "file_name"  # in `keep_columns`, the name of the image's file
_ALTTEXTS = ("caption", "alttext", "alt_text", "alt", "text", "raw_caption", "org_caption", "top_caption", "title")
_MORE_ALTTEXTS = ("description", "captions", "sentence", "sentences", "prompt")  # of local files
_SCORES = (
    "similarity", "punsafe", "pwatermark", "aesthetic", "aesthetic_score",  # LAION and its subsets
    "clip_b32_similarity_score", "clip_l14_similarity_score",  # DataComp
)  # fmt: skip
_KEPT_CHARS = 10_000  # of one value as JSON
_UID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source file. If `problem` is set, the row is unusable and all other fields are None.

    `dropped` counts the values that are not in the row by field: those that are not text (`caption`, `score` …), and
    all captions but the first of a list (`caption_variants`).
    """

    url: str | None
    caption: str | None = None
    uid: str | None = None  # 32 hex digits, as in DataComp
    scores: str | None = None  # as in CANDIDATES
    kept: str | None = None  # JSON object of the columns to keep, None if there are none to keep
    problem: str | None = None
    dropped: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns to read; None for missing columns."""

    url: str | None
    caption: str | None = None
    uid: str | None = None
    sha256: str | None = None
    scores: tuple[str, ...] = ()
    kept: tuple[tuple[str, str | None], ...] = ()  # names in `keep_columns`, and their columns

    @property
    def names(self) -> list[str]:
        """The distinct names of all columns."""
        named = (self.url, self.caption, self.uid, self.sha256, *self.scores, *(column for _, column in self.kept))
        return list(dict.fromkeys(name for name in named if name is not None))

    def row(self, values: Mapping[str, object]) -> Row:
        """Return the row for *values*, by column name."""
        try:
            return self._row(values)
        except Exception as error:
            url = values.get(self.url or "")
            return Row(None, problem=failure_of(error, url if isinstance(url, str) else "a row").reason)

    def _row(self, values: Mapping[str, object]) -> Row:
        dropped: dict[str, int] = defaultdict(int)
        url, caption, uid, sha256 = (
            None if name is None else _text(values.get(name), field, dropped)
            for name, field in (
                (self.url, "url"),
                (self.caption, "caption"),
                (self.uid, "uid"),
                (self.sha256, "sha256"),
            )
        )
        if not (_is_unicode(url) and _is_unicode(caption)):
            return Row(None, problem="not_utf8")
        uid = _matching(uid, _UID, "uid", dropped)
        sha256 = _matching(sha256, _SHA256, "sha256", dropped)
        scores = _scores(values, self.scores, sha256, dropped) if self.scores or sha256 else None
        kept = _kept_json(values, self.kept, dropped) if self.kept else None
        return Row(url, caption, uid, scores, kept, dropped=tuple(sorted(dropped.items())) if dropped else ())


@dataclass(frozen=True, slots=True)
class Fields:
    """The names of the columns that rows of a source have.

    `used` are the columns that the crawl reads as image, AltText, uid or score, and those that no table can keep;
    `keep_columns` can list the others.
    """

    names: tuple[str, ...] = ()
    used: frozenset[str] = frozenset()
    caption: str | None = None

    @classmethod
    def of(cls, names: Sequence[str], columns: Columns, unkept: Sequence[str] = ()) -> Fields:
        """Return the fields *names*, of which the source reads *columns*, and cannot keep *unkept*."""
        return cls(tuple(names), frozenset((*columns.names, *unkept)), columns.caption)

    @property
    def others(self) -> list[str]:
        """The names of the columns that the crawl does not read."""
        return [name for name in self.names if name not in self.used]


def find_columns(
    names: Sequence[str],
    url: str | int | None = None,
    caption: str | int | None = None,
    scores: Sequence[str] | None = None,
    kept: Sequence[str] = (),
    image_names: Sequence[str] = URLS,
) -> Columns:
    """Return the columns of a table with the column *names*. *url*, *caption* and *scores* override the detection.

    *image_names* are the usual names of the column with the image, *kept* the columns to keep. Blanks around a name do
    not matter. A configured column that is not in *names* is None.
    """
    stripped = {name.strip(): name for name in reversed(names)}  # the first of equal names wins
    lowered = {name.strip().lower(): name for name in reversed(names)}

    def pick(configured: str | int | None, common: Sequence[str]) -> str | None:
        if configured is not None:
            return str(configured) if str(configured) in names else stripped.get(str(configured).strip())
        return next((lowered[name] for name in common if name in lowered), None)

    if scores is None:
        numbers = [lowered[name] for name in _SCORES if name in lowered]
    else:
        numbers = [found for name in scores if (found := pick(name, ())) is not None]
    return Columns(
        pick(url, image_names),
        pick(caption, _ALTTEXTS if image_names is URLS else (*_ALTTEXTS, *_MORE_ALTTEXTS)),
        pick(None, ("uid",)),
        pick(None, ("sha256",)),
        tuple(numbers),
        tuple((name, pick(name, ()) or (pick(url, image_names) if name == FILE_NAME else None)) for name in kept),
    )


def sidecar_row(
    texts: Mapping[str, bytes],
    caption: str | None,
    kept: Sequence[str],
    virtual: Mapping[str, str],
    image_names: Sequence[str] = URLS,
) -> Row:
    """Return the row of an image with a `txt`, the caption, and a `json`, an object of columns; both are optional.

    *virtual* are columns in addition to those of the object; *image_names* are as in `find_columns`.

    Raises Failure: `bad_json`, `not_utf8`.
    """
    try:
        values = parse_json(texts.get("json", b"{}"))
        text = texts.get("txt", b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise Failure("not_utf8") from error
    except ValueError as error:
        raise Failure("bad_json") from error
    if not isinstance(values, dict):
        raise Failure("bad_json")
    values |= virtual
    row = find_columns(list(values), "url", caption, kept=kept, image_names=image_names).row(values)
    if row.problem is not None:
        raise Failure(row.problem)
    return replace(row, caption=text or row.caption)


def sidecar_fields(texts: Iterable[Mapping[str, bytes]], caption: str | None, image_names: Sequence[str]) -> Fields:
    """Return the fields of the objects in the `json` of *texts*; arguments are as in `sidecar_row`."""
    names: dict[str, None] = {}
    for each in texts:
        try:
            values = parse_json(each.get("json", b"{}"))
        except ValueError:  # the row is skipped
            continue
        names |= dict.fromkeys(values if isinstance(values, dict) else ())
    return Fields.of([*names], find_columns([*names], "url", caption, image_names=image_names))


def _text(value: object, field: str, dropped: dict[str, int]) -> str | None:
    """Return a cell as text, None for empty cells such as pandas' NaN.

    Of a list, the first text is returned. What is not returned counts in *dropped* by *field*. Invalid UTF-8 becomes
    lone surrogates.
    """
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, float):
        return None if math.isnan(value) else str(value)
    if isinstance(value, list):
        texts = [item for item in value if isinstance(item, str | bytes)]
        if others := sum(item is not None for item in value) - len(texts):
            dropped[field] += others
        if len(texts) > 1:
            dropped[f"{field}_variants"] += len(texts) - 1
        return _text(texts[0], field, dropped) if texts else None
    dropped[field] += 1
    return None


def _matching(text: str | None, pattern: re.Pattern[str], field: str, dropped: dict[str, int]) -> str | None:
    """Return *text* in lower case, None if it is empty or does not match *pattern*."""
    if text is None or not text.strip():
        return None
    lowered = text.lower()
    if pattern.fullmatch(lowered):
        return lowered
    dropped[field] += 1
    return None


def _scores(
    values: Mapping[str, object], names: Sequence[str], sha256: str | None, dropped: dict[str, int]
) -> str | None:
    """Return the JSON for column `scores` of CANDIDATES, None without scores; other values than finite numbers count
    in *dropped*.

    *sha256* is the digest of the publisher's image and may differ from ours; it is stored as `source_sha256`.
    """
    kept: dict[str, float | str] = {}
    for name in names:
        text = _text(values.get(name), "score", dropped)
        if text is None or not text.strip():
            continue
        try:
            number = float(text)
        except ValueError:
            dropped["score"] += 1
            continue
        if math.isfinite(number):
            kept[name] = number
        elif not math.isnan(number):
            dropped["score"] += 1
    if sha256 is not None:
        kept["source_sha256"] = sha256
    return json.dumps(kept, sort_keys=True) if kept else None


def _kept_json(values: Mapping[str, object], columns: Sequence[tuple[str, str | None]], dropped: dict[str, int]) -> str:
    """Return the JSON object for column `kept`. Values without a JSON form, too long, or with private data are null and
    *dropped*: tables and samples with `kept` are published.
    """
    members = []
    for name, column in columns:
        value = None if column is None else values.get(column)
        text = _json_text(value)
        if text is None:
            dropped["kept"] += 1
        elif has_private_data(f"{name.replace('_', ' ')}: {value if isinstance(value, str) else text}"):
            text = None
            dropped["kept_private_data"] += 1
        members.append(f"{json.dumps(name, ensure_ascii=False)}: {text or 'null'}")
    return f"{{{', '.join(members)}}}"


def _json_text(value: object) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, float) and math.isnan(value):
        value = None
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_json_value)
    except (ValueError, TypeError, RecursionError):
        return None
    return text if len(text) <= _KEPT_CHARS and _is_unicode(text) else None


def _json_value(value: object) -> str:
    if isinstance(value, Decimal | datetime.date | datetime.time | datetime.timedelta):
        return str(value)
    raise TypeError


def log_dropped(dropped: Mapping[str, int], name: str) -> None:
    """Log one warning if values of the file *name* were *dropped*."""
    if dropped:
        values = ", ".join(f"{count:,} × {field}" for field, count in sorted(dropped.items()))
        log.warning("%s: values not used: %s; a field takes one text or number, of a list the first text", name, values)


def _is_unicode(text: str | None) -> bool:
    """Return whether *text* is valid Unicode. Invalid UTF-8 bytes were decoded as lone surrogates."""
    if text is None or text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
