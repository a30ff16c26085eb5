"""Hugging Face datasets on disk as a source, without the library `datasets`.

Layouts: Arrow files written by `save_to_disk`, parquet files as on the Hub, and an imagefolder with a metadata file.
Images are in a column of structs with `bytes` and `path`, or of bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from vecap_tasks.config import Config, FolderSource, HfSource
from vecap_tasks.core.files import DigestReader, SourceFile
from vecap_tasks.crawl.sources.columns import IMAGES, Columns, Fields, find_columns, log_dropped
from vecap_tasks.crawl.sources.folder import FolderFiles
from vecap_tasks.crawl.sources.link import ByteRange, Link, Stats, digest_url
from vecap_tasks.crawl.sources.local_files import LocalFolders, check_folder, folder_name, store_folders
from vecap_tasks.crawl.sources.parquet_rows import cells_of
from vecap_tasks.errors import Failure, PermanentError, SettingError, failure_of

log = logging.getLogger(__name__)

_BATCH = 64  # rows of images in memory
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # without it, a stream that is cut between batches seems complete
_BATCHES_KEPT = 2  # for reads that are slightly out of order
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# The names of a split in file names and folders, as `datasets` knows them.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}


class HfDataset:
    """The rows of a split, in order. A part is a table; of an imagefolder, its metadata file.

    Every row counts in `images`; an unusable one also in `skipped.<reason>`: `no_image`, `not_utf8`, `too_large`, and
    for images outside the table the reasons of `LocalFolders`.
    """

    def __init__(self, config: Config, section: HfSource, interval: str) -> None:
        self._config = config
        self._section = section
        self._interval = interval
        self._name = folder_name(section.path, interval)
        self._root = Path(config.resolve(self._name))
        self._store = store_folders(config)
        self._folders = LocalFolders(config, [section.path], interval)

    def parts(self) -> list[str]:
        check_folder(self._name, self._root)
        try:
            folder = self._imagefolder()
            return [self._name_of(path) for path in self._tables()] if folder is None else folder.parts()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PermanentError(
                f"{self._name} cannot be read as a Hugging Face dataset: {' '.join(str(error).split())}; save it again"
            ) from error

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        folder = self._imagefolder()
        if folder is not None:
            yield from folder.read(part, stats)
            return
        dropped: Counter[str] = Counter()
        path = self._root / part.removeprefix(f"{self._name}/")
        file = SourceFile(part, str(path), path.stat().st_size)
        try:
            yield from self._rows(file, stats, dropped)
            with file.open() as stream, closing(DigestReader(stream)) as digesting:
                stats.inputs.append(digesting.input(part))
        except (OSError, pa.ArrowException) as error:
            problem = " ".join(str(error).split())
            raise PermanentError(f"{part} is corrupt or truncated: {problem}; copy or save it again") from error
        stats.counters.update({f"dropped.{field}": count for field, count in dropped.items()})
        log_dropped(dropped, part)

    def fields(self, part: str) -> Fields:
        """Return the columns of *part*; images cannot be kept."""
        folder = self._imagefolder()
        if folder is not None:
            return folder.fields(part)
        schema = read_schema(self._root / part.removeprefix(f"{self._name}/"))
        found = find_columns(schema.names, self._section.image_column, self._section.caption_column, image_names=IMAGES)
        return Fields.of(schema.names, found, [field.name for field in schema if _has_bytes(field.type)])

    def _rows(self, file: SourceFile, stats: Stats, dropped: Counter[str]) -> Iterator[Link]:
        columns = self._columns(file)
        for first, batch in read_batches(Path(file.location), columns.names):
            images = _images_of(batch.column(columns.url))
            texts = {name: cells_of(batch.column(name)) for name in columns.names if name != columns.url}
            for index, (body, path) in enumerate(images):
                stats.counters["images"] += 1
                values = {name: cells[index] for name, cells in texts.items()}
                row = columns.row(values | {str(columns.url): path})
                dropped.update(dict(row.dropped))
                link = Link("", row.caption, None, None, None, None, file.name, row.uid, row.scores, kept=row.kept)
                try:
                    if row.problem is not None:
                        raise Failure(row.problem)
                    yield self._with_image(link, body, path, file.name, first + index)
                except Exception as error:
                    where = f"{file.name}: row {first + index}"
                    stats.counters[f"skipped.{failure_of(error, where).reason}"] += 1

    def _with_image(self, link: Link, body: bytes | None, path: str | None, part: str, number: int) -> Link:
        if body is not None:
            if len(body) > self._config.crawl.fetch.max_bytes:
                raise Failure("too_large")
            url = digest_url(hashlib.sha256(body).digest())
            return link._replace(url=url, stored=ByteRange(part, number, len(body)))
        if not path:
            raise Failure("no_image")
        file = self._folders.locate(path, self._root)
        return link._replace(url=self._folders.image(file)[0], stored=ByteRange(file.name, 0, file.size))

    def _columns(self, file: SourceFile) -> Columns:
        """Return the columns of a table. Raises PermanentError for missing ones."""
        schema = read_schema(Path(file.location))
        section = self._section
        settings = (section.image_column, section.caption_column, None, section.kept_columns)
        found = find_columns(schema.names, *settings, IMAGES)
        present = ", ".join(schema.names[:20]) or "none"
        missing = {
            "image_column": section.image_column or "with images" if found.url is None else None,
            "caption_column": section.caption_column if found.caption is None else None,
            "keep_columns": next((name for name, column in found.kept if column is None), None),
        }
        for setting, name in missing.items():
            if name is not None:
                setting = f"crawl.source.{setting}"
                raise SettingError(f"{file.name} has no column {name} (columns: {present}); set {setting}", setting)
        kind = schema.field(found.url).type
        if not (_has_bytes(kind) or pt.is_string(kind)):
            raise SettingError(
                f"{file.name}: column {found.url} has {str(kind)[:100]}, not images; set crawl.source.image_column",
                "crawl.source.image_column",
            )
        if found.caption is None:
            log.warning("%s: no caption column among %s; set crawl.source.caption_column", file.name, present)
        return found

    # Layouts

    def _tables(self) -> list[Path]:
        saved = self._root / "dataset_dict.json"
        folder = self._root
        if saved.is_file():
            folder /= self._choose(json.loads(saved.read_bytes())["splits"])
        state = folder / "state.json"
        if state.is_file():
            values = json.loads(state.read_bytes())
            if values.get("_indices_data_files") or values.get("_indices_files"):
                raise ValueError("it has indices; save dataset.flatten_indices()")
            tables = [folder / str(item["filename"]) for item in values["_data_files"]]
        else:
            found = [path for path in sorted(folder.rglob("*.parquet")) if path.is_file()]
            found = [path for path in found if not self._is_left_out(path)]
            by_split: dict[str, list[Path]] = {}
            for path in found:
                by_split.setdefault(_split_of(path.relative_to(folder)), []).append(path)
            tables = by_split[self._choose([*by_split])] if found else []
        if not tables:
            raise PermanentError(
                f"{self._name} has no state.json of save_to_disk, no parquet files and no {', '.join(_METADATA)}; "
                "change crawl.source.path, or use kind: folder"
            )
        for table in tables:
            self._check_inside(table)
        return tables

    def _is_left_out(self, path: Path) -> bool:
        """Return whether *path* is hidden, or in the store if that is inside the folder."""
        below = path.relative_to(self._root)
        hidden = any(name.startswith(".") for name in below.parts)
        return hidden or any(self._root / parent in self._store for parent in below.parents[:-1])

    def _check_inside(self, file: Path) -> None:
        """Raise PermanentError if *file* is a link that leads out of the folder."""
        try:
            self._folders.locate(str(file), None)
        except Failure as error:
            raise PermanentError(
                f"{self._name_of(file)} cannot be read: {error.message}; copy the dataset itself into the folder, not "
                "links to it (`hf download --local-dir`)"
            ) from error

    def _imagefolder(self) -> FolderFiles | None:
        found = [path for path in self._root.iterdir() if path.is_dir() and not path.is_symlink()]
        splits = sorted(path.name for path in found if _metadata(path))
        path, folder = self._root, self._name
        if _metadata(path) is None:
            if not splits:
                return None
            path /= self._choose(splits)
            folder = self._name_of(path)
        metadata = str(_metadata(path))
        self._check_inside(path / metadata)
        values = self._section.model_dump(exclude={"kind", "path", "split"})
        section = FolderSource(kind="folder", path=folder, captions=metadata, **values)
        return FolderFiles(self._config, section, self._interval)

    def _choose(self, splits: Sequence[str]) -> str:
        """Return the split to read. Raises PermanentError if it is missing or not unique."""
        wanted = self._section.split
        if wanted is None and len(splits) == 1:
            return splits[0]
        if (wanted or "train") in splits:
            return wanted or "train"
        problem = "has several splits" if wanted is None else f"has no split {wanted}"
        raise SettingError(
            f"{self._name} {problem} ({', '.join(splits)}); set crawl.source.split", "crawl.source.split"
        )

    def _name_of(self, path: Path) -> str:
        return f"{self._name}/{path.relative_to(self._root)}"


class HfImages:
    """Reads the images of an `HfDataset`. Thread-safe; fast if rows are read in about their order."""

    def __init__(self, config: Config, section: HfSource, interval: str) -> None:
        self._name = folder_name(section.path, interval)
        self._root = Path(config.resolve(self._name))
        self._column = section.image_column
        self._folders = LocalFolders(config, [section.path], interval)
        self._lock = Lock()
        self._file = ""
        self._batches: Iterator[tuple[int, pa.RecordBatch]] = iter(())
        self._recent: list[tuple[int, pa.RecordBatch]] = []

    def read(self, stored: ByteRange) -> bytes:
        """Return the bytes of an image. Raises Failure: `not_stored` if the table changed, `too_large`."""
        if not stored.archive.endswith((".arrow", ".parquet")):
            return self._folders.read(stored)
        try:
            with self._lock:
                ((body, _),) = _images_of(self._row(stored.archive, stored.offset))
        except FileNotFoundError as error:
            raise Failure("not_stored", "there is no such file") from error
        except (OSError, pa.ArrowException) as error:
            raise Failure("not_stored", "the table cannot be read") from error
        if body is None or len(body) != stored.length:
            raise Failure("not_stored", "the row has another image than it had")
        return body

    def _row(self, name: str, number: int) -> pa.Array:
        """Return the image column of row *number*, an array of length 1."""
        if name != self._file or (self._recent and number < self._recent[0][0]):
            self._file, self._recent = name, []
            path = self._root / name.removeprefix(f"{self._name}/")
            column = find_columns(read_schema(path).names, self._column, image_names=IMAGES).url
            self._batches = read_batches(path, [str(column)], number)
        while True:
            for first, batch in self._recent:
                if first <= number < first + batch.num_rows:
                    return batch.column(0).slice(number - first, 1)
            following = next(self._batches, None)
            if following is None:
                self._file = ""
                raise Failure("not_stored", "the table has fewer rows than it had")
            self._recent = [*self._recent[1 - _BATCHES_KEPT :], following]


def read_schema(path: Path) -> pa.Schema:
    """Return the columns of an Arrow or parquet file. Raises OSError, pa.ArrowException."""
    if path.suffix == ".parquet":
        return pq.read_schema(path)
    with _open_arrow(path) as reader:
        return reader.schema


def read_batches(path: Path, columns: Sequence[str], start: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield small batches of an Arrow or parquet file with the number of their first row, from row *start* or before.

    Raises OSError, pa.ArrowException.
    """
    first = 0
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as table:
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if first + rows > start:
                    for batch in table.iter_batches(_BATCH, [group], list(columns), use_threads=False):
                        yield first, batch
                        first += batch.num_rows
                else:
                    first += rows
        return
    with _open_arrow(path) as reader:
        for batch in reader:
            selected = batch.select(list(columns))
            for offset in range(0, batch.num_rows, _BATCH):
                if first + offset + _BATCH > start:
                    yield first + offset, selected.slice(offset, _BATCH)
            first += batch.num_rows


def _open_arrow(path: Path) -> Any:
    """Open an Arrow file in the stream format, which `datasets` writes, or in the file format."""
    file = pa.OSFile(str(path))
    if file.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(file)
        return pa.RecordBatchReader.from_batches(reader.schema, map(reader.get_batch, range(reader.num_record_batches)))
    file.seek(max(0, file.size() - len(_END_OF_STREAM)))
    if file.read() != _END_OF_STREAM:
        raise pa.ArrowInvalid("the end of the stream is missing")
    file.seek(0)
    return pa.ipc.open_stream(file)


def _has_bytes(kind: pa.DataType) -> bool:
    """Return whether a column of this type has images: bytes, or structs with `bytes`."""
    if pt.is_struct(kind):
        return "bytes" in [kind.field(number).name for number in range(kind.num_fields)]
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind))


def _images_of(column: pa.Array) -> list[tuple[bytes | None, str | None]]:
    """Return the bytes and the path of each image of a column."""
    if pt.is_string(column.type):
        return [(None, path) for path in cells_of(column)]  # type: ignore[misc]
    values = column.to_pylist()
    return [(value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None) for value in values]


def _metadata(folder: Path) -> str | None:
    return next((name for name in _METADATA if (folder / name).is_file()), None)


def _split_of(path: Path) -> str:
    """Return the split that the path of a parquet file names, `train` if it names none."""
    words = re.split(r"[^a-z]+", str(path.with_suffix("")).lower())
    return next((split for split, names in _SPLITS.items() if any(word in names for word in words)), "train")
