"""Samples of tar shards with the texts that an arm may take, locally or from S3."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pyarrow.fs as pafs

from vecap_tasks.config import Arm, Text
from vecap_tasks.core.files import BlockStream
from vecap_tasks.core.tar import Member, read_groups
from vecap_tasks.errors import CorruptError

_IMAGES = ("jpg", "png", "jpeg", "webp")  # open_clip's, in its order
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
# The published shards of this project. Earlier releases wrote no variants.
OWN_TEXTS: Mapping[Text, tuple[str, ...]] = {
    "alttext": ("json.alttext",),
    "vec": ("json.vec_variants", "json.vec"),
    "vecap": ("json.vecap_variants", "json.vecap"),
    "alttext_rewritten": ("json.alttext_rewritten_variants", "json.alttext_rewritten"),
}


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar. `name` is for people; `usable` are its samples with a text for an arm, None where nobody counted."""

    name: str
    filesystem: pafs.FileSystem
    path: str
    usable: Mapping[Arm, int] | None = None

    def open(self) -> IO[bytes]:
        """Open for reading, seekable. Raises OSError."""
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            return Path(self.path).open("rb")
        # A sample is read when its last member is known, which is after the next one's first: a small step back.
        return cast("IO[bytes]", BlockStream(self.filesystem.open_input_file(self.path)))

    def read(self, offset: int, size: int) -> bytes:
        """Return some of its bytes by a read of their own."""
        with self.filesystem.open_input_file(self.path) as stream:
            data: bytes = stream.read_at(size, offset)
            return data


@dataclass(frozen=True, slots=True)
class Source:
    """The shards of a version, or of someone else's tars, with what is taken of them.

    `samples` are all, with a text for the arm or not. Of an `own` source everything is as this project publishes it,
    and what is not is damage; in others samples without an image or text are met, and left out.
    """

    name: str
    shards: tuple[Shard, ...]
    samples: int
    weight: float
    arm: Arm
    mixed_p: float
    texts: Mapping[Text, tuple[str, ...]] = field(default_factory=lambda: OWN_TEXTS)
    own: bool = True


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample with a text for the arm. Of `texts` the first `alttexts` (0 or 1) are AltText beside which others stand
    in the arm `mixed`; the rest are variants of one text. `offset` and `size` of the image are in bytes of the tar."""

    uid: str
    texts: tuple[str, ...]
    alttexts: int
    offset: int
    size: int


def draw(seed: int, uid: str, epoch: int, alttexts: int, texts: int, probability: float) -> int:
    """Return which of its *texts* the sample *uid* is shown with: by seed, uid and epoch alone."""
    others = texts - alttexts
    if alttexts and (not others or _fraction(f"{seed}/{uid}/{epoch}") < probability * 2.0**64):
        return 0
    if others == 1:
        return alttexts
    return alttexts + (_fraction(f"{seed}/{uid}/{epoch}/variant") * others >> 64)


def _fraction(name: str) -> int:
    """Return a number of 64 bits, evenly drawn, that follows from *name*."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


@dataclass(slots=True)
class ReadStats:
    """What was met in a shard. `samples` = `usable` for the arm + `textless` + the sum of `skipped`, by reason."""

    samples: int = 0
    usable: int = 0
    textless: int = 0
    skipped: dict[str, int] = field(default_factory=dict)


def read_samples(stream: IO[bytes], shard: Shard, source: Source, stats: ReadStats | None = None) -> Iterator[Sample]:
    """Give the samples of *shard*, open as *stream*, that have a text for the source's arm, in the order of the tar.

    Between two samples the caller may read elsewhere in *stream*. Raises CorruptError for a tar that is not whole, and
    for one of our own that is not as it was published.
    """
    stats = ReadStats() if stats is None else stats
    for written in parse_samples(stream, shard.name, source.texts, stats, own=source.own):
        texts, alttexts = _texts(written, source.arm)
        if not texts:
            stats.textless += 1
            continue
        stats.usable += 1
        yield Sample(written.uid, texts, alttexts, written.offset, written.size)


def usable(written: ParsedSample, arm: Arm) -> bool:
    """Say whether a sample has a text for *arm*."""
    return bool(_texts(written, arm)[0])


def _texts(written: ParsedSample, arm: Arm) -> tuple[tuple[str, ...], int]:
    """Return the texts of a sample for *arm*, and how many of them are AltText beside others."""
    if arm != "mixed":
        return written.texts.get(arm, ()), 0
    # Of several AltTexts the first: `mixed` is between two texts, not among variants of the noise.
    alttext = written.texts.get("alttext", ())[:1]
    return (*alttext, *written.texts.get("vecap", ())), len(alttext)


@dataclass(frozen=True, slots=True)
class ParsedSample:
    """A sample as it stands in a tar: all its texts, those alone that are not empty."""

    uid: str
    texts: Mapping[Text, tuple[str, ...]]
    offset: int
    size: int


class _SkippedError(Exception):
    """Says in one word why a sample cannot be used."""


def parse_samples(
    stream: IO[bytes], name: str, places: Mapping[Text, tuple[str, ...]], stats: ReadStats, *, own: bool
) -> Iterator[ParsedSample]:
    """Give the samples of the tar *stream* that have an image, counting all in *tally*.

    *places* says where each text stands, the first that is not empty is taken. Raises CorruptError, naming *name*.
    """
    for key, group in read_groups(stream, name):
        stats.samples += 1
        try:
            yield _written(stream, name, places, own, key, {member.kind: member for member in group})
        except _SkippedError as reason:
            if own:
                raise CorruptError(f"{name} is not a training shard: {key} has {reason}; run `vecap verify`") from None
            stats.skipped[str(reason)] = stats.skipped.get(str(reason), 0) + 1


def _written(
    stream: IO[bytes],
    name: str,
    places: Mapping[Text, tuple[str, ...]],
    own: bool,
    key: str,
    members: Mapping[str, Member],
) -> ParsedSample:
    image = next((members[kind] for kind in _IMAGES if kind in members), None)
    if image is None:
        raise _SkippedError("no_image")
    if not own and not image.read(stream, 12).startswith(_MAGIC):
        raise _SkippedError("not_an_image")
    values: Any = {}
    if "json" in members:
        try:
            values = json.loads(members["json"].read(stream))
        except (ValueError, RecursionError):
            raise _SkippedError("bad_json") from None
    if not isinstance(values, dict) or (own and not isinstance(values.get("uid"), str)):
        raise _SkippedError("bad_json")
    texts: dict[Text, tuple[str, ...]] = {}
    for text, tried in places.items():
        found = (_variants(stream, members, values, place) for place in tried)
        texts[text] = next((variants for variants in found if variants), ())
    # Someone else's samples have the name that DataComp gives them, or that of their place.
    uid = values.get("uid")
    if not isinstance(uid, str) or not uid:
        place = f"{PurePosixPath(name).name}/{key}"
        uid = hashlib.blake2b(place.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return ParsedSample(uid, texts, image.offset, image.size)


def _variants(
    stream: IO[bytes], members: Mapping[str, Member], values: Mapping[str, Any], place: str
) -> tuple[str, ...]:
    """Return the texts at *place* that are not empty."""
    found: Any = values
    if place == "txt":
        try:
            found = members["txt"].read(stream).decode("utf-8") if "txt" in members else None
        except UnicodeDecodeError:
            raise _SkippedError("not_utf8") from None
    else:
        for name in place.split(".")[1:]:
            found = found.get(name) if isinstance(found, dict) else None
    several = found if isinstance(found, list) else [found]
    return tuple(text for text in several if isinstance(text, str) and text.strip())
