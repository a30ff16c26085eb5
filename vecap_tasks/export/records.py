"""The rows of an export: the texts of a training sample, and where its image comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vecap_tasks.core.private_data import has_private_data
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.errors import CorruptError

Text = Literal["vecap", "alttext", "vec", "all"]
TEXTS: tuple[Text, ...] = get_args(Text)
SINGLE_TEXTS = ("vecap", "alttext", "vec")  # in the order of `all`
# Columns of a source, in `kept`, that state the license or the author of an image.
_LICENSE_COLUMN = re.compile(r"licen[cs]e([_ ]?(name|type|url))?|(usage[_ ]?)?rights", re.IGNORECASE)
_AUTHOR_COLUMN = re.compile(
    r"attribution|credits?|(author|artist|creator|photographer)([_ ]?name)?|copyright([_ ]?(holder|notice))?",
    re.IGNORECASE,
)
_EXIF_AUTHOR = ("Copyright", "Artist")
_CRAWL_COLUMNS = ("uid", "page_url", "page_title", "exif")

_STRING, _STRINGS, _INTEGER = pa.string(), pa.list_(pa.string()), pa.int32()


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of an export. `rewritten`, `variants` and `kept` are for versions that have these columns."""

    text: Text
    rewritten: bool
    variants: bool
    kept: bool

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns without the image. None is nullable: a missing text is "", or an empty list."""
        rewritten = ["alttext_rewritten"] if self.rewritten else []
        variants = [f"{text}_variants" for text in ("vec", "vecap", *rewritten)] if self.variants else []
        origin = ("page_url", "page_title", "license", "attribution")
        return {
            "text": _STRINGS if self.text == "all" else _STRING,
            **dict.fromkeys(("key", "uid", "url", *origin, "sha256"), _STRING),
            **dict.fromkeys(("width", "height"), _INTEGER),
            **dict.fromkeys(("alttext", "vec", "vecap", "vecap_from", *rewritten), _STRING),
            **dict.fromkeys(variants, _STRINGS),
            **({"kept": _STRING} if self.kept else {}),
        }

    def record(self, sample: Mapping[str, Any], origin: Origin) -> dict[str, Any] | None:
        """Return the row for *sample*, a row of SAMPLES; None if it does not have the text."""
        if self.text == "all":
            text: str | list[str] = list(dict.fromkeys(filter(None, (sample[name] for name in SINGLE_TEXTS))))
        else:
            text = sample[self.text]
        if not text:
            return None
        values = {"text": text, "page_url": origin.page_url, "page_title": origin.page_title}
        values |= {"license": origin.license, "attribution": origin.attribution}
        return {name: values[name] if name in values else sample[name] for name in self.columns()}


@dataclass(frozen=True, slots=True)
class Origin:
    """The page and the rights of an image as the crawl recorded them; "" if it has none or has private data."""

    page_url: str
    page_title: str
    license: str
    attribution: str


def read_origin(row: Mapping[str, str | None], kept: str | None) -> Origin:
    """Return the origin of *row*, a row of CRAWL, whose kept columns are the JSON object *kept*."""
    columns: dict[str, Any] = json.loads(kept) if kept else {}
    exif: dict[str, str] = json.loads(row["exif"] or "{}")
    attribution = _first(columns, _AUTHOR_COLUMN) or next(filter(None, map(exif.get, _EXIF_AUTHOR)), "")
    return Origin(
        _public(row["page_url"]), _public(row["page_title"]), _first(columns, _LICENSE_COLUMN), _public(attribution)
    )


def _first(columns: Mapping[str, Any], names: re.Pattern[str]) -> str:
    """Return the first text or number in a column with one of the *names*; a value with private data is null."""
    values = (value for name, value in columns.items() if names.fullmatch(name.strip()))
    return next((text for value in values if isinstance(value, str | int) and (text := str(value).strip())), "")


def _public(text: str | None) -> str:
    return "" if not text or has_private_data(text) else text


@dataclass(slots=True)
class CrawlTables:
    """Finds rows of the crawl by uid, with the rows of one training shard in memory.

    `assemble` takes the samples of consecutive training shards from the same few crawl tables, then from later ones.
    A search starts at the table `first`, and `last` is the last one that had a wanted row; both are stored with a
    finished shard, so that a resumed export does not read the earlier tables again.
    """

    files: Sequence[RecordedFile]
    first: int = 0
    last: int = -1

    def find(self, uids: set[str]) -> dict[str, dict[str, str | None]]:
        """Return the columns page_url, page_title and exif by uid.

        Raises CorruptError if a row or a file is missing, or a file is corrupt.
        """
        start = self.first
        found, tables = self._search(uids, start)
        if len(found) < len(uids) and start:  # only groups with very few samples are read in another order
            found, tables = self._search(uids, 0)
        if len(found) < len(uids):
            missing = min(uids - found.keys())
            raise CorruptError(f"no table of the crawl has the row {missing}; run `vecap verify`")
        if tables and tables[0] > self.last:
            self.first = tables[0]
        self.last = max(self.last, *tables) if tables else self.last
        return found

    def _search(self, uids: set[str], start: int) -> tuple[dict[str, dict[str, str | None]], list[int]]:
        """Return the rows found from the table *start* on, and the tables that have them."""
        found: dict[str, dict[str, str | None]] = {}
        tables = []
        wanted = pa.array(sorted(uids), pa.string())
        for number in range(start, len(self.files)):
            if len(found) == len(uids):
                break
            file = pq.ParquetFile(pa.BufferReader(self.files[number].read()))
            table = file.read(list(_CRAWL_COLUMNS))
            rows = table.filter(pc.is_in(table["uid"], value_set=wanted)).to_pylist()
            found |= {row.pop("uid"): row for row in rows}
            if rows:
                tables.append(number)
        return found, tables
