"""Webdataset tars with images and captions as a source, as img2dataset writes them and open_clip reads them.

Each tar is read once to find the byte range of each image; the images are read later.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import IO, cast

from vecap_tasks.config import Config, WebdatasetSource
from vecap_tasks.core.files import BlockStream, DigestReader, SourceFile, find_files
from vecap_tasks.core.tar import MAX_TEXT, Member, read_groups
from vecap_tasks.crawl.http.url import absolute
from vecap_tasks.crawl.sources.columns import URLS, Fields, log_dropped, sidecar_fields, sidecar_row
from vecap_tasks.crawl.sources.link import ByteRange, Link, Stats, digest_url
from vecap_tasks.errors import Failure, PermanentError, VecapError, failure_of

_IMAGES = ("jpg", "png", "jpeg", "webp")  # in open_clip's order
_TEXTS = ("txt", "json")
_FIRST_SAMPLES = 20  # whose texts show the fields
KEY = "__key__"  # in `keep_columns`, the key of the sample
_BUFFER = 1 << 20
_COMPRESSION = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@dataclass(frozen=True, slots=True)
class _Image:
    stored: ByteRange
    digest: bytes  # sha256


@dataclass(slots=True)
class _Sample:
    """The members of one key."""

    key: str
    images: dict[str, _Image] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    problem: str | None = None


class WebdatasetFiles:
    """The samples of the tars, in order. A part is a tar.

    Every sample counts in `images`; an unusable sample also in `skipped.<reason>`: `no_image`, `bad_json`, `not_utf8`,
    `large_text`.
    """

    def __init__(self, config: Config, section: WebdatasetSource, interval: str) -> None:
        self._kept = section.kept_columns
        self._files = find_files(
            config, section.paths, kind="webdataset", setting="crawl.source.paths", interval=interval
        )

    def parts(self) -> list[str]:
        return list(self._files)

    def fields(self, part: str) -> Fields:
        """Return `__key__` and the fields of the first `.json` members of *part*."""
        samples = islice(_samples(self._files[part], Stats()), _FIRST_SAMPLES)
        found = sidecar_fields((sample.texts for sample in samples), None, URLS)
        return replace(found, names=(KEY, *found.names))

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        dropped: Counter[str] = Counter()
        for sample in _samples(self._files[part], stats):
            stats.counters["images"] += 1
            try:
                link = _link(sample, part, self._kept, dropped)
            except Exception as error:
                stats.counters[f"skipped.{failure_of(error, f'{part}: {sample.key}').reason}"] += 1
                continue
            yield link
        stats.counters.update({f"dropped.{field}": count for field, count in dropped.items()})
        log_dropped(dropped, part)


def _samples(file: SourceFile, stats: Stats) -> Iterator[_Sample]:
    """Yield the samples of *file*, then add it to the inputs of *stats*. Raises VecapError if it is corrupt."""
    try:
        with file.open() as raw:
            digesting = DigestReader(raw)
            stream = cast("IO[bytes]", BlockStream(digesting))
            compression = _COMPRESSION.get(stream.read(2))
            if compression:
                raise PermanentError(
                    f"{file.name} is compressed with {compression}; decompress it, images are read by byte range"
                )
            for key, members in read_groups(stream, file.name):
                yield _read_sample(stream, file.name, key, members)
            stats.inputs.append(digesting.input(file.name))
    except OSError as error:
        raise VecapError(f"cannot read {file.name}: {' '.join(str(error).split())}") from error


def _read_sample(stream: IO[bytes], name: str, key: str, members: Iterator[Member]) -> _Sample:
    sample = _Sample(key)
    for member in members:
        kind = member.kind
        if kind in _IMAGES:
            sample.images[kind] = _Image(ByteRange(name, member.offset, member.size), _sha256(stream, member))
        elif kind in _TEXTS and member.size > MAX_TEXT:
            sample.problem = "large_text"
        elif kind in _TEXTS:
            sample.texts[kind] = member.read(stream)
    return sample


def _sha256(stream: IO[bytes], member: Member) -> bytes:
    """Return the sha256 of a member, read in blocks."""
    sha256 = hashlib.sha256()
    stream.seek(member.offset)
    remaining = member.size
    while remaining and (block := stream.read(min(remaining, _BUFFER))):
        sha256.update(block)
        remaining -= len(block)
    return sha256.digest()


def _link(sample: _Sample, part: str, kept: Sequence[str], dropped: Counter[str]) -> Link:
    """Return the link of *sample*; add unused values to *dropped*. Raises Failure with the reason if it is unusable."""
    image = next((sample.images[kind] for kind in _IMAGES if kind in sample.images), None)
    if image is None:
        raise Failure("no_image")
    if sample.problem is not None:
        raise Failure(sample.problem)
    row = sidecar_row(sample.texts, None, kept, {KEY: sample.key} if KEY in kept else {})
    dropped.update(dict(row.dropped))
    try:
        url = absolute(row.url or "", "")
    except Failure:
        url = digest_url(image.digest)
    return Link(url, row.caption, None, None, None, None, part, row.uid, row.scores, image.stored, kept=row.kept)
