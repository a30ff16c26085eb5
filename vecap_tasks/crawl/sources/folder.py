"""Images in a local folder as a source, with captions from a table or from files next to the images."""

from __future__ import annotations

import codecs
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from unicodedata import normalize

from vecap_tasks.config import Config, FolderSource, expand
from vecap_tasks.core.files import SourceFile
from vecap_tasks.core.manifest import Input
from vecap_tasks.crawl.sources.columns import FILE_NAME, FILES, Fields, Row, log_dropped, sidecar_fields, sidecar_row
from vecap_tasks.crawl.sources.link import ByteRange, Link, Stats
from vecap_tasks.crawl.sources.local_files import LocalFile, LocalFolders, check_folder, folder_name, store_folders
from vecap_tasks.crawl.sources.table_rows import read_fields, read_rows
from vecap_tasks.errors import Failure, PermanentError, SettingError, VecapError, failure_of

log = logging.getLogger(__name__)

_IMAGES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".j2k")
)
_TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")  # .json files are next to images
_COMPRESSED = (".gz", ".zst")
_SIDECARS = ("txt", "json")
_FIRST_IMAGES = 20  # whose files show the fields
_CAPTIONS = "crawl.source.captions"


@dataclass(slots=True)
class _Folder:
    """What one folder contains, hidden files and the folders of the store left out."""

    images: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)  # folders that are symbolic links
    sidecars: dict[tuple[str, str], str] = field(default_factory=dict)  # by stem and kind


def _list(path: Path, store: frozenset[Path]) -> _Folder:
    found = _Folder()
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
            stem, extension = Path(entry.name).stem, Path(entry.name).suffix
            if entry.name.startswith(".") or Path(entry.path) in store:
                continue
            if entry.is_dir():
                (found.linked if entry.is_symlink() else found.folders).append(entry.name)
            elif extension.lower() in _IMAGES:
                found.images.append(entry.name)
            elif extension.lower()[1:] in _SIDECARS:
                found.sidecars[stem, extension.lower()[1:]] = entry.name
    return found


class FolderFiles:
    """The images of a folder. With a table of captions, the part is the table and its rows name the images. Otherwise
    the parts are the folder itself and each of its subfolders, and the captions are in files next to the images.

    Every row or image counts in `images`; an unusable one also in `skipped.<reason>`: those of `LocalFolders.locate`,
    `too_large`, `no_image` (no file name), and of texts `bad_json`, `not_utf8`, `large_text`; of tables also those of
    `UrlFiles`. `unlisted` counts images that the table does not name, `folder_skipped.<reason>` folders that were not
    read: `link` (also to a folder inside), `unreadable`.
    """

    def __init__(self, config: Config, section: FolderSource, interval: str) -> None:
        self._section = section
        self._name = folder_name(section.path, interval)
        self._folders = LocalFolders(config, [section.path], interval)
        self._root = Path(config.resolve(self._name))
        self._store = store_folders(config)
        self._captions = (section.captions or "").replace("{interval}", interval)

    def parts(self) -> list[str]:
        check_folder(self._name, self._root)
        try:
            table = self._table()
            if table is not None:
                return [table.name]
            subfolders = [name for name in _list(self._root, self._store).folders if _is_utf8(name)]
            parts = [self._name, *(f"{self._name}/{name}" for name in subfolders)]
            if not any(True for part in parts for _ in self._images(part, Counter())):
                raise PermanentError(
                    f"{self._name} has no images ({', '.join(sorted(_IMAGES))}); change crawl.source.path"
                )
        except OSError as error:
            raise VecapError(f"cannot read {error.filename}: {error.strerror}; check the permissions") from error
        return parts

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        dropped: Counter[str] = Counter()
        table = self._table()
        yield from self._listed(table, stats, dropped) if table is not None else self._found(part, stats, dropped)
        stats.counters.update({f"dropped.{field}": count for field, count in dropped.items()})
        log_dropped(dropped, part)

    def fields(self, part: str) -> Fields:
        """Return the columns of the table, or the fields of the first `.json` files of *part*."""
        table = self._table()
        if table is not None:
            return read_fields(table, self._section)
        texts = []
        for _, sidecars in islice(self._images(part, Counter()), _FIRST_IMAGES):
            with suppress(Failure):  # the row is skipped
                texts.append(self._texts(sidecars))
        return sidecar_fields(texts, self._section.caption_column, FILES)

    def _table(self) -> SourceFile | None:
        """Return the table of captions, None without one. Raises PermanentError if it is missing or not unique."""
        if self._captions:
            path = Path(os.path.normpath(self._root / expand(self._captions)))
            if not path.is_file():
                raise SettingError(
                    f"{path} does not exist; correct {_CAPTIONS}, a path relative to {self._name}", _CAPTIONS
                )
        else:
            found = [path for path in sorted(self._root.iterdir()) if _is_table(path.name) and path.is_file()]
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise SettingError(f"{self._name} has several tables ({names}); name one in {_CAPTIONS}", _CAPTIONS)
            if not found:
                return None
            (path,) = found
            try:
                self._folders.locate(str(path), None)
            except Failure as error:
                raise SettingError(
                    f"{self._name}/{path.name} cannot be read: {error.message}; copy the table into the folder, or "
                    f"name it in {_CAPTIONS}",
                    _CAPTIONS,
                ) from error
        return SourceFile(f"{self._name}/{os.path.relpath(path, self._root)}", str(path), path.stat().st_size)

    # A table names the images.

    def _listed(self, table: SourceFile, stats: Stats, dropped: Counter[str]) -> Iterator[Link]:
        base = Path(table.location).parent
        named: set[str] = set()
        used: dict[str, str] = {}
        first = ""
        for row in read_rows(table, self._section, stats):
            stats.counters["images"] += 1
            dropped.update(dict(row.dropped))
            first = first or row.url or ""
            try:
                file = self._named(row, base)
                named.add(file.name)
                link, used[file.name] = self._link(file, row, table.name)
            except Exception as error:
                stats.counters[f"skipped.{failure_of(error, f'{table.name}: {row.url}').reason}"] += 1
                continue
            yield link
        if not used:
            raise PermanentError(
                f"{table.name} names no image that can be read: {_reasons(stats.counters) or 'it has no rows'}"
                f"{f'; the first file name is {first[:200]!r}' if first else ''}; names are relative to the table or "
                "the folder, and crawl.source.image_column selects the column"
            )
        stats.inputs.append(_input(self._name, used))
        if unlisted := sum(
            self._is_unlisted(path, named) for path, _ in self._images(self._name, stats.counters, below=True)
        ):
            stats.counters["unlisted"] = unlisted
            log.warning("%s: %s images in the folder are not in the table", table.name, f"{unlisted:,}")

    def _named(self, row: Row, base: Path) -> LocalFile:
        """Return the file that *row* names, relative to *base* or to the folder. Raises Failure."""
        if row.problem is not None:
            raise Failure(row.problem)
        if not row.url or not row.url.strip():
            raise Failure("no_image")
        name = row.url.strip()
        # Names that were written on Windows; accents as one character or two, as macOS writes file names.
        forms = (normalize(form, name) for form in ("NFC", "NFD"))
        for reference in dict.fromkeys((name, name.replace("\\", "/"), *forms)):
            for folder in dict.fromkeys((base, self._root)):
                try:
                    return self._folders.locate(reference, folder)
                except Failure as error:
                    failure = error
        raise failure

    def _link(self, file: LocalFile, row: Row, source: str) -> tuple[Link, str]:
        """Return the link of an image, and its sha256. Raises Failure."""
        url, digest = self._folders.image(file)
        stored = ByteRange(file.name, 0, file.size)
        link = Link(url, row.caption, None, None, None, None, source, row.uid, row.scores, stored, kept=row.kept)
        return link, digest.hex()

    # Captions are next to the images.

    def _found(self, part: str, stats: Stats, dropped: Counter[str]) -> Iterator[Link]:
        used: dict[str, str] = {}
        captions = 0
        for path, sidecars in self._images(part, stats.counters):
            stats.counters["images"] += 1
            try:
                row = self._row(path, sidecars)
                file = self._folders.locate(str(path), None)
                link, used[file.name] = self._link(file, row, part)
            except Exception as error:
                stats.counters[f"skipped.{failure_of(error, ascii(str(path))).reason}"] += 1
                continue
            dropped.update(dict(row.dropped))
            captions += bool(row.caption)
            yield link
        if used:
            stats.inputs.append(_input(part, used))
        if used and not captions:
            log.warning("%s: no image has a caption; photo.jpg has it in photo.txt or photo.json, or in a table", part)

    def _row(self, image: Path, sidecars: Mapping[str, Path]) -> Row:
        texts = self._texts(sidecars)
        name = os.path.relpath(image, self._root)
        kept = self._section.kept_columns
        virtual = {FILE_NAME: name} if FILE_NAME in kept else {}
        return sidecar_row(texts, self._section.caption_column, kept, virtual, FILES)

    def _texts(self, sidecars: Mapping[str, Path]) -> dict[str, bytes]:
        """Return the content of *sidecars*, by kind. Raises Failure."""
        files = {kind: self._folders.locate(str(path), None) for kind, path in sidecars.items()}
        return {kind: self._folders.text(file).removeprefix(codecs.BOM_UTF8) for kind, file in files.items()}

    def _images(
        self, part: str, counters: Counter[str], *, below: bool = False
    ) -> Iterator[tuple[Path, dict[str, Path]]]:
        """Yield the images of *part* with the files next to them, by kind, in order.

        The part of the folder itself has its subfolders only if they have no UTF-8 name, or *below* is set.
        """
        top = self._root / part.removeprefix(self._name).lstrip("/")
        pending = [top]
        while pending:
            path = pending.pop()
            try:
                found = _list(path, self._store)
            except OSError:
                log.warning("%s cannot be read", ascii(str(path)))
                counters["folder_skipped.unreadable"] += 1
                continue
            for name in found.linked:
                log.warning("%s is a link to a folder, which is not read", ascii(str(path / name)))
                counters["folder_skipped.link"] += 1
            for name in found.images:
                texts = {kind: found.sidecars.get((Path(name).stem, kind)) for kind in _SIDECARS}
                yield path / name, {kind: path / text for kind, text in texts.items() if text is not None}
            everything = below or path != self._root
            pending += [path / name for name in reversed(found.folders) if everything or not _is_utf8(name)]

    def _is_unlisted(self, path: Path, named: set[str]) -> bool:
        try:
            return self._folders.locate(str(path), None).name not in named
        except Failure:
            return False


def _is_table(name: str) -> bool:
    lowered = name.lower()
    for codec in _COMPRESSED:
        lowered = lowered.removesuffix(codec)
    return lowered.endswith(_TABLES) and not name.startswith(".")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reasons(counters: Mapping[str, int]) -> str:
    return ", ".join(
        f"{count:,} {name.removeprefix('skipped.')}"
        for name, count in sorted(counters.items())
        if name.startswith("skipped.")
    )


def _input(name: str, images: Mapping[str, str]) -> Input:
    """Return the *images* (sha256 by name) as one input: the digest is of their lines as `sha256sum` prints them."""
    lines = "".join(f"{digest}  {image}\n" for image, digest in sorted(images.items()))
    return Input("source", name, hashlib.sha256(lines.encode()).hexdigest())
