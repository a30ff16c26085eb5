"""Reads the rows of JSON files and JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import BufferedReader
from itertools import islice
from typing import Literal, NamedTuple

from vecap_tasks.core.files import DigestReader
from vecap_tasks.core.json_reader import UNREADABLE, JsonError, JsonReader, parse_json
from vecap_tasks.crawl.sources.columns import Columns, Row
from vecap_tasks.crawl.sources.list_file import Lines, ListFile, decompressed, open_text
from vecap_tasks.errors import PermanentError

_MAX_LAYOUTS = 1_000  # different sets of names in memory
_FIRST_ITEMS = 100  # in which an array shows its columns


def json_line_rows(file: ListFile, stream: BufferedReader) -> Iterator[Row]:
    lines = Lines(file, stream)
    objects = _Objects(file)
    invalid = False
    for line in lines:
        invalid = False
        if lines.too_long:
            yield Row(None, problem="large_row")
            continue
        if not line.strip():
            yield Row(None, problem="no_url")
            continue
        try:
            value = parse_json(line)
        except ValueError:
            invalid = True
            yield Row(None, problem="bad_row")
            continue
        yield objects.row(value)
    if invalid and not lines.terminated:
        raise file.truncated(f"line {lines.number} is invalid JSON without a line break")
    objects.check()


def json_rows(file: ListFile, stream: BufferedReader) -> Iterator[Row]:
    """Yield the rows of an array of objects, of RedCaps' `annotations`, or of VeCap-300M's object of URL to caption."""
    layout = _detect_layout(file)
    reader = JsonReader(open_text(file, stream))
    match layout.kind:
        case "lines":
            yield from json_line_rows(file, stream)
            return
        case "array":
            yield from _array(file, reader)
        case "member":
            found = False
            for name in reader.names():
                if name == layout.member and not found and reader.next() == "[":
                    found = True
                    yield from _array(file, reader)
                else:
                    reader.skip()
        case "pairs":
            pair = file.fixed_columns("url", "caption")
            for url in reader.names():
                caption = reader.value()
                invalid = caption is UNREADABLE
                yield Row(None, problem="bad_row") if invalid else pair.row({"url": url, "caption": caption})
    reader.end()


def _array(file: ListFile, reader: JsonReader) -> Iterator[Row]:
    objects = _Objects(file)
    for value in reader.items():
        yield objects.row(value)
    objects.check()


class _Layout(NamedTuple):
    """The layout of a JSON file; `member` is the name of the array with the rows."""

    kind: Literal["lines", "array", "member", "pairs"]
    member: str = ""


def _detect_layout(file: ListFile) -> _Layout:
    """Return the layout, reading as little as possible. Raises VecapError if it is unknown.

    Of several arrays, the rows are in the first whose items have a URL and a caption, or else in the only one whose
    items have a URL.
    """
    with file.file.open() as raw, decompressed(DigestReader(raw), file.codec) as stream:
        reader = JsonReader(open_text(file, stream))
        arrays: dict[str, int] = {}
        flat = False
        try:
            if reader.next() == "[":
                return _Layout("array")
            for name in reader.names():
                match reader.next():
                    case "[":
                        arrays[name] = _columns_of_interest(file, reader)
                        if arrays[name] == 2:
                            return _Layout("member", name)
                        continue
                    case '"' if "://" in name:
                        return _Layout("pairs")
                    case '"':
                        flat = True
                reader.skip()
            reader.end()
        except JsonError:
            if not arrays:
                return _Layout("lines")  # several documents, or a corrupt file, which the lines reader reports
            raise
    return _choose(file, arrays, flat)


def _columns_of_interest(file: ListFile, reader: JsonReader) -> int:
    """Read an array; return how many of the columns URL and caption its first items have."""
    most = 0
    items = reader.items()
    for value in islice(items, _FIRST_ITEMS):
        if isinstance(value, Mapping):
            columns = file.find(tuple(value))
            most = max(most, (columns.url is not None) * (1 + (columns.caption is not None)))
        if most == 2:
            return most
    for _ in items:
        pass
    return most


def _choose(file: ListFile, arrays: Mapping[str, int], flat: bool) -> _Layout:
    if "images" in arrays and "annotations" in arrays:
        urls = file.image_setting == "url_column"
        example = '"url": "https://…"' if urls else '"file_name": "1.jpg"'
        raise PermanentError(
            f"{file.name} is in COCO's format, with images and captions in separate arrays; convert it to JSON lines "
            f'such as {{{example}, "caption": "…"}}'
        )
    with_url = [name for name, columns in arrays.items() if columns and name not in ("info", "licenses")]
    if len(with_url) == 1:
        return _Layout("member", with_url[0])
    if flat and not arrays:
        return _Layout("lines")
    found = f", found the arrays {', '.join(name[:100] for name in [*arrays][:20])}" if arrays else ""
    raise PermanentError(
        f"{file.name} has an unknown JSON layout: expected an array of objects, `annotations`, or an object of URL "
        f"to caption{found}; convert it to JSON lines"
    )


class _Objects:
    """Converts JSON objects to rows; their names may differ."""

    def __init__(self, file: ListFile) -> None:
        self._file = file
        self._known: dict[tuple[str, ...], Columns] = {}
        self._seen: tuple[str, ...] = ()
        self._rows = 0
        self._found = False
        self._kept: set[str] = set()  # found columns of `keep_columns`

    def row(self, value: object) -> Row:
        self._rows += 1
        if not isinstance(value, Mapping):
            return Row(None, problem="bad_row")
        names = tuple(value)
        if names not in self._known:
            if len(self._known) > _MAX_LAYOUTS:
                self._known.clear()
            self._known[names] = self._file.find(names)
            self._seen = self._seen or names
            self._kept |= {name for name, column in self._known[names].kept if column is not None}
        columns = self._known[names]
        self._found |= columns.url is not None
        return columns.row(value)

    def check(self) -> None:
        """Raise VecapError if no row had a URL column, or one of the columns to keep."""
        if self._rows and not self._found:
            raise self._file.no_column(self._file.image_setting, self._seen)
        if self._rows:
            self._file.check_kept(self._kept, self._seen)
