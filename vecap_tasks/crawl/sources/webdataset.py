"""Images that lie in webdataset tars with their captions, as img2dataset writes them and open_clip reads them.

The tars are read once, from start to end, to find where each image lies; the images are taken from there later.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader

from vecap_tasks.config import Config, WebdatasetSource
from vecap_tasks.core.files import Digesting, SourceFile, find_files
from vecap_tasks.crawl.http.url import absolute
from vecap_tasks.crawl.sources.columns import find_columns
from vecap_tasks.crawl.sources.link import Link, Stored, Tally
from vecap_tasks.errors import Failure, PermanentError, VecapError, failure_of

_MEMBER = re.compile(r"^((?:.*/|)[^./]+)\.([^/]+)$", re.DOTALL)  # webdataset's: the key ends at the first dot
_IMAGES = ("jpg", "png", "jpeg", "webp")  # open_clip's, in its order
_TEXTS = ("txt", "json")
_MAX_TEXT = 1 << 24
_BUFFER = 1 << 20
_PACKED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_END = 2 * tarfile.BLOCKSIZE  # of zeros, which close a tar


@dataclass(frozen=True, slots=True)
class _Image:
    stored: Stored
    digest: bytes  # sha256


@dataclass(slots=True)
class _Sample:
    """The members of one key."""

    key: str
    images: dict[str, _Image] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


class WebdatasetFiles:
    """The samples of the tars, in their order. A part is a tar.

    Every sample counts as one of `images`, and those that cannot be used once each as `skipped.<reason>`: `no_image`,
    `bad_json`, `not_utf8`.
    """

    def __init__(self, config: Config, section: WebdatasetSource, interval: str) -> None:
        self._files = find_files(config, section.paths, interval, "webdataset")

    def parts(self) -> list[str]:
        return list(self._files)

    def read(self, part: str, tally: Tally) -> Iterator[Link]:
        for sample in _samples(self._files[part], tally):
            tally.counters["images"] += 1
            try:
                link = _link(sample, part)
            except Exception as error:
                tally.counters[f"skipped.{failure_of(error, f'{part}: {sample.key}').reason}"] += 1
                continue
            yield link


class _Passing(Digesting):
    """Knows also where the last byte ends that is not zero."""

    filled = 0

    def passed(self, block: bytes) -> None:
        content = len(block.rstrip(b"\0"))
        if content:
            self.filled = self.bytes + content
        super().passed(block)


def _samples(file: SourceFile, tally: Tally) -> Iterator[_Sample]:
    """Give the samples of *file*, and then add it to the inputs of *tally*. Raises VecapError where it is not whole."""
    try:
        with file.open() as stream:
            passing = _Passing(stream)
            whole = BufferedReader(passing, _BUFFER)
            start = whole.peek(2)[:2]
            if start in _PACKED:
                raise PermanentError(
                    f"{file.name} is packed with {_PACKED[start]}; unpack it: images are read from where they lie in it"
                )
            # Without `|` tarfile would step over the images, which are to be read for the digests.
            with tarfile.open(fileobj=whole, mode="r|") as tar:
                yield from _grouped(tar, file.name)
                end = tar.offset
            read = passing.input(file.name)
    except tarfile.TarError as error:
        raise VecapError(f"{file.name} is cut short or no tar: {error}; get the file again") from error
    except OSError as error:
        raise VecapError(f"{file.name} cannot be read: {' '.join(str(error).split())}") from error
    # tarfile takes a missing end for an end, and what is no header too.
    if passing.filled > end:
        raise PermanentError(
            f"{file.name} is damaged at byte {end}: no header of a tar begins there; get the file again"
        )
    if passing.bytes < end + _END:
        raise PermanentError(f"{file.name} is cut short after byte {end}: its end is missing; get the whole file")
    tally.inputs.append(read)


def _grouped(tar: tarfile.TarFile, name: str) -> Iterator[_Sample]:
    """Give the samples: members of one key that follow each other."""
    sample: _Sample | None = None
    while (entry := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined] # it keeps them all otherwise, and memory follows the tar
        parts = _MEMBER.match(entry.name)
        if parts is None or not entry.isreg():
            continue
        key, kind = parts[1], parts[2].lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        if kind in sample.images or kind in sample.texts:
            raise PermanentError(f"{name} holds {entry.name} twice; its samples cannot be told apart")
        if kind in _IMAGES and not entry.issparse():
            image = Stored(name, entry.offset_data, entry.size)
            sample.images[kind] = _Image(image, hashlib.file_digest(_open(tar, entry), "sha256").digest())
        elif kind in _TEXTS and entry.size <= _MAX_TEXT:
            sample.texts[kind] = _open(tar, entry).read()
    if sample is not None:
        yield sample


def _open(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> BufferedReader:
    stream = tar.extractfile(entry)
    assert isinstance(stream, BufferedReader)  # noqa: S101 - it is a file, as the caller saw
    return stream


def _link(sample: _Sample, part: str) -> Link:
    """Return the link of *sample*. Raises Failure saying why there is none."""
    image = next((sample.images[kind] for kind in _IMAGES if kind in sample.images), None)
    if image is None:
        raise Failure("no_image")
    try:
        values = json.loads(sample.texts.get("json", b"{}"))
        text = sample.texts.get("txt", b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise Failure("not_utf8") from error
    except (ValueError, RecursionError) as error:
        raise Failure("bad_json") from error
    if not isinstance(values, dict):
        raise Failure("bad_json")
    row = find_columns(list(values), url="url").row(values)
    if row.problem is not None:
        raise Failure(row.problem)
    url = _address(row.url or "", image.digest)
    return Link(url, text or row.caption, None, None, None, None, part, row.uid, row.scores, image.stored)


def _address(url: str, digest: bytes) -> str:
    """Return the address that the image came from; where it is not known, the name of its bytes (RFC 6920).

    That name is the same wherever the tar lies, and nothing can be fetched from it.
    """
    try:
        return absolute(url, "")
    except Failure:
        return "ni:///sha-256;" + base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")
