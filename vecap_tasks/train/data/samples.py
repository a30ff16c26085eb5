"""Reads samples and their texts from tar shards, local or on S3."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vecap_tasks.config import Text, Weights
from vecap_tasks.core.files import BlockStream
from vecap_tasks.core.json_reader import parse_json
from vecap_tasks.core.private_data import has_private_data
from vecap_tasks.core.tar import MAX_TEXT, Member, read_groups
from vecap_tasks.core.verify import CHANGED, RecordedFile
from vecap_tasks.errors import CorruptError

IMAGE_EXTENSIONS = ("jpg", "png", "jpeg", "webp")  # in open_clip's order
MAX_IMAGE = 1 << 28  # bytes
_SKIPPED = 1 << 22  # bytes of a read whose data is only hashed
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # lone: JSON can escape it, tokenizers reject it
_IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
# Text fields of shards that VeCap published. Earlier releases wrote no variants.
OWN_TEXTS: Mapping[Text, tuple[str, ...]] = {
    "alttext": ("json.alttext",),
    "vec": ("json.vec_variants", "json.vec"),
    "vecap": ("json.vecap_variants", "json.vecap"),
    "alttext_rewritten": ("json.alttext_rewritten_variants", "json.alttext_rewritten"),
}


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar. `name` is for messages; `usable` counts the samples with a text of the source, None if not counted.

    `sha256` is recorded of the whole file, None if there is no record. `table` has the samples and texts of a version
    that refers to the images of an earlier one, in the order of the tar; None: the tar has the texts.
    """

    name: str
    filesystem: pafs.FileSystem
    path: str
    usable: int | None = None
    sha256: str | None = None
    table: RecordedFile | None = None

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Yield a seekable stream, to be read in order, and compare its content with `sha256`.

        A local file is hashed first; the page cache makes the second read cheap. Another is hashed as it is read.
        Raises OSError, and CorruptError, possibly at the end of the block.
        """
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            with Path(self.path).open("rb") as stream:
                if self.sha256 is not None:
                    self._compare(hashlib.file_digest(stream, "sha256").hexdigest())
                    stream.seek(0)
                yield stream
            return
        with self.filesystem.open_input_file(self.path) as source:
            # A sample ends at the first member of the next one, so reading its members needs a small seek back.
            blocks = _HashedBlocks(source)
            yield cast("IO[bytes]", BlockStream(blocks))
            if self.sha256 is not None:
                self._compare(blocks.sha256())

    def _compare(self, sha256: str) -> None:
        if sha256 != self.sha256:
            raise CorruptError(f"{self.name} {CHANGED}; restore it")

    def read_rows(self, fields: Mapping[Text, tuple[str, ...]]) -> dict[str, dict[str, Any]] | None:
        """Return the uid and the *fields* of the samples in `table` by key, None without one. Raises CorruptError."""
        if self.table is None:
            return None
        table = pq.ParquetFile(pa.BufferReader(self.table.read()))
        names = {name.removeprefix("json.") for candidates in fields.values() for name in candidates}
        columns = [name for name in table.schema_arrow.names if name in names | {"key", "uid"}]
        return {row["key"]: row for row in table.read(columns).to_pylist()}

    def read(self, offset: int, size: int) -> bytes:
        """Return *size* bytes at *offset*."""
        with self.filesystem.open_input_file(self.path) as stream:
            data: bytes = stream.read_at(size, offset)
            return data


class _HashedBlocks:
    """Reads blocks of a file and hashes each byte once, in order."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._end = 0  # bytes hashed

    def size(self) -> int:
        return int(self._file.size())

    def read_at(self, size: int, offset: int) -> bytes:
        while self._end < offset and self._update(min(_SKIPPED, offset - self._end)):
            pass
        return self._update(size) if offset == self._end else bytes(self._file.read_at(size, offset))

    def close(self) -> None:
        self._file.close()

    def sha256(self) -> str:
        """Read the rest and return the hash of the file, 64 hex digits."""
        while self._update(_SKIPPED):
            pass
        return self._hash.hexdigest()

    def _update(self, size: int) -> bytes:
        data: bytes = self._file.read_at(size, self._end)
        self._hash.update(data)
        self._end += len(data)
        return data


@dataclass(frozen=True, slots=True)
class Source:
    """The shards of a version (`own`) or of external tars, and the texts used from them.

    `texts` has the weights of the texts to draw from, `fields` where each text is in a sample. `samples` counts all
    samples, with one of the texts or not. A malformed sample raises CorruptError in an `own` source and is skipped in
    others.
    """

    name: str
    shards: tuple[Shard, ...]
    samples: int
    weight: float
    texts: Weights
    fields: Mapping[Text, tuple[str, ...]] = field(default_factory=lambda: OWN_TEXTS)
    own: bool = True


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample with at least one text of its source: `texts` has the variants of each, in the order of the weights.

    `offset` and `size` locate the image in the tar, in bytes.
    """

    uid: str
    texts: tuple[tuple[str, ...], ...]
    offset: int
    size: int

    @property
    def counts(self) -> list[int]:
        return [len(variants) for variants in self.texts]


@dataclass(slots=True)
class ReadStats:
    """Sample counts of a shard: `samples` = `usable` + `textless` + the sum of `skipped`, which is by reason."""

    samples: int = 0
    usable: int = 0
    textless: int = 0
    skipped: dict[str, int] = field(default_factory=dict)


def read_samples(stream: IO[bytes], shard: Shard, source: Source, stats: ReadStats | None = None) -> Iterator[Sample]:
    """Yield the samples of *shard*, open as *stream*, that have one of the source's texts, in tar order.

    The caller may seek in *stream* between samples. Raises CorruptError for a corrupt tar, and for a malformed sample
    of an `own` source.
    """
    stats = ReadStats() if stats is None else stats
    rows = shard.read_rows(source.fields)
    for parsed in parse_samples(stream, shard.name, source.fields, stats, own=source.own, rows=rows):
        texts = tuple(parsed.texts.get(text, ()) for text in source.texts)
        if not any(texts):
            stats.textless += 1
            continue
        stats.usable += 1
        yield Sample(parsed.uid, texts, parsed.offset, parsed.size)


@dataclass(frozen=True, slots=True)
class ParsedSample:
    """A sample of a tar with its nonempty texts. `offset` and `size` locate the image, in bytes."""

    uid: str
    texts: Mapping[Text, tuple[str, ...]]
    offset: int
    size: int


class _SkippedError(Exception):
    """The sample cannot be used; the message is the reason name."""


def parse_samples(
    stream: IO[bytes],
    name: str,
    fields: Mapping[Text, tuple[str, ...]],
    stats: ReadStats,
    *,
    own: bool,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[ParsedSample]:
    """Yield the samples of the tar *stream* that have an image; count all in *stats*.

    *fields* lists the fields of each text; the first nonempty one is used. With *rows*, by key, their values replace
    the `.json` members, and other samples are ignored. Raises CorruptError, which includes *name*.
    """
    missing = set(rows or ())
    for key, group in read_groups(stream, name):
        if rows is not None and key not in rows:
            continue
        missing.discard(key)
        stats.samples += 1
        row = None if rows is None else rows[key]
        try:
            yield _parse_sample(stream, name, fields, own, key, {member.kind: member for member in group}, row)
        except _SkippedError as reason:
            if own:
                raise CorruptError(f"{name} is corrupt: sample {key} has {reason}; run `vecap verify`") from None
            stats.skipped[str(reason)] = stats.skipped.get(str(reason), 0) + 1
    if missing:
        raise CorruptError(f"{name} has no image {min(missing)}; run `vecap verify`")


def _parse_sample(
    stream: IO[bytes],
    name: str,
    fields: Mapping[Text, tuple[str, ...]],
    own: bool,
    key: str,
    members: Mapping[str, Member],
    row: Mapping[str, Any] | None,
) -> ParsedSample:
    image = next((members[kind] for kind in IMAGE_EXTENSIONS if kind in members), None)
    if image is None:
        raise _SkippedError("no_image")
    if not own and not image.read(stream, 12).startswith(_IMAGE_SIGNATURES):
        raise _SkippedError("not_an_image")
    if not own and image.size > MAX_IMAGE:
        raise _SkippedError("large_image")
    values: Any = {} if row is None else row
    if row is None and "json" in members:
        try:
            values = parse_json(_read_text(stream, members["json"]))
        except ValueError:
            raise _SkippedError("bad_json") from None
    if not isinstance(values, dict) or (own and not isinstance(values.get("uid"), str)):
        raise _SkippedError("bad_json")
    texts: dict[Text, tuple[str, ...]] = {}
    for text, candidates in fields.items():
        found = (_variants(stream, members, values, text_field) for text_field in candidates)
        texts[text] = next((variants for variants in found if variants), ())
        if not own and any(map(has_private_data, texts[text])):
            raise _SkippedError("private_data")
    # External samples use DataComp's `uid`, otherwise a hash of tar name and key.
    uid = values.get("uid")
    if not isinstance(uid, str) or not uid or _SURROGATE.search(uid):
        path = f"{PurePosixPath(name).name}/{key}"
        uid = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return ParsedSample(uid, texts, image.offset, image.size)


def _variants(
    stream: IO[bytes], members: Mapping[str, Member], values: Mapping[str, Any], text_field: str
) -> tuple[str, ...]:
    """Return the nonempty texts of *text_field*: `txt`, or a key such as `json.caption`."""
    found: Any = values
    if text_field == "txt":
        try:
            found = _read_text(stream, members["txt"]).decode("utf-8") if "txt" in members else None
        except UnicodeDecodeError:
            raise _SkippedError("not_utf8") from None
    else:
        for name in text_field.split(".")[1:]:
            found = found.get(name) if isinstance(found, dict) else None
    variants = found if isinstance(found, list) else [found]
    texts = tuple(text for text in variants if isinstance(text, str) and text.strip())
    if any(_SURROGATE.search(text) for text in texts):
        raise _SkippedError("not_utf8")
    return texts


def _read_text(stream: IO[bytes], member: Member) -> bytes:
    if member.size > MAX_TEXT:
        raise _SkippedError("large_text")
    return member.read(stream)
