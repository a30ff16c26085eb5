"""A file of a URL list: its format, compression and columns, and its text."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, TextIOWrapper
from typing import Any

import pyarrow as pa

from vecap_tasks.config import FolderSource, HfSource, UrlSource
from vecap_tasks.core.files import DigestReader, SourceFile, wide_encoding
from vecap_tasks.crawl.sources.columns import FILES, Columns, find_columns
from vecap_tasks.errors import PermanentError, SettingError, VecapError

log = logging.getLogger(__name__)

BUFFER = 1 << 20
MAX_LINE = 1 << 24  # characters
_MAX_NAME = 100  # characters of a column name in a message
ListSection = UrlSource | FolderSource | HfSource


@dataclass(frozen=True, slots=True)
class ListFile:
    """A file with its format, compression and settings. Its images are URLs in a UrlSource, else files."""

    file: SourceFile
    kind: str
    codec: str | None
    section: ListSection

    @property
    def name(self) -> str:
        return self.file.name

    def find(self, names: Sequence[str]) -> Columns:
        """Return the columns among *names*; configured columns take precedence."""
        section = self.section
        kept = section.kept_columns
        if isinstance(section, UrlSource):
            return find_columns(names, section.url_column, section.caption_column, section.score_columns, kept)
        return find_columns(names, section.image_column, section.caption_column, None, kept, FILES)

    @property
    def image_setting(self) -> str:
        """The setting with the name of the column with URLs or file names."""
        return "url_column" if isinstance(self.section, UrlSource) else "image_column"

    def columns(self, names: Sequence[str]) -> Columns:
        """Return the columns to read among *names*. Raises VecapError without a URL column, or with several columns of
        a name that is read.
        """
        found = self.find(names)
        for name in found.names:
            if (count := names.count(name)) > 1:
                raise PermanentError(f"{self.name} has {count} columns {name[:_MAX_NAME]}; keep only one")
        if found.url is None:
            raise self.no_column(self.image_setting, names)
        self.check_kept([name for name, column in found.kept if column is not None], names)
        if found.caption is None and self.section.caption_column is not None:
            raise self.no_column("caption_column", names)
        if found.caption is None and len(names) > 1:
            log.warning("%s: no caption column among %s; set crawl.source.caption_column", self.name, _listed(names))
        return found

    def fixed_columns(self, url: str, caption: str | None = None) -> Columns:
        """Return the columns *url* and *caption* of a format without others. Raises VecapError if one is to be kept."""
        names = [url] if caption is None else [url, caption]
        found = find_columns(names, url, caption, kept=self.section.kept_columns)
        self.check_kept([name for name, column in found.kept if column is not None], names)
        return found

    def check_kept(self, found: Collection[str], names: Sequence[str]) -> None:
        """Raise VecapError if one of `keep_columns` is not in *found*; *names* are the columns to list."""
        for name in self.section.kept_columns:
            if name not in found:
                raise self.missing(f"column {name!r}", "keep_columns", names)

    def no_column(self, setting: str, names: Sequence[str]) -> VecapError:
        configured = getattr(self.section, setting)
        detected = "URL column" if setting == "url_column" else "column with file names"
        return self.missing(detected if configured is None else f"column {configured!r}", setting, names)

    def missing(self, column: str, setting: str, names: Sequence[str]) -> VecapError:
        present = _listed(names) or "none"
        setting = f"crawl.source.{setting}"
        return SettingError(f"{self.name} has no {column} (columns: {present}); set {setting}", setting)

    def truncated(self, position: str) -> VecapError:
        return PermanentError(f"{self.name} is truncated: {position}; download the file again")


def _listed(names: Sequence[str]) -> str:
    shown = (name[:_MAX_NAME] for name in names[:20])
    return ", ".join(name if name.isprintable() else json.dumps(name) for name in shown)


@contextmanager
def decompressed(stream: DigestReader, codec: str | None) -> Iterator[BufferedReader]:
    source = BufferedReader(stream, BUFFER)
    plain: BufferedReader[Any] = BufferedReader(pa.CompressedInputStream(source, codec), BUFFER) if codec else source
    yield plain


def open_text(file: ListFile, stream: BufferedReader) -> TextIOWrapper:
    """Return *stream* as UTF-8 text in any locale; invalid bytes become lone surrogates.

    Raises VecapError for UTF-16 and UTF-32.
    """
    if encoding := wide_encoding(stream.peek(4)[:4]):
        raise PermanentError(
            f"{file.name} is encoded in {encoding}; convert it to UTF-8, for example with "
            f"`iconv -f {encoding} -t UTF-8`"
        )
    return TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")


class Lines:
    """The lines of a text file. Of a line longer than `MAX_LINE`, only the beginning is returned."""

    def __init__(self, file: ListFile, stream: BufferedReader) -> None:
        self._text = open_text(file, stream)
        self.terminated = True  # whether the last line ends with a line break
        self.too_long = False  # whether the last line was longer
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(MAX_LINE):
            self.number += 1
            end = line
            while self._is_cut(end):
                end = self._text.readline(MAX_LINE)
            self.too_long = end is not line
            self.terminated = end[-1:] in ("\r", "\n")
            yield line

    def _is_cut(self, line: str) -> bool:
        return len(line) == MAX_LINE and line[-1] not in "\r\n"
