"""Other people's tars: found by path or glob on this machine or on S3, and counted, once, for a mixture."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import get_args

import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from vecap_tasks.config import Arm, Config, Text
from vecap_tasks.dataset.globs import split_glob
from vecap_tasks.dataset.store import open_filesystem
from vecap_tasks.errors import VecapError
from vecap_tasks.train.mixture import TarPart
from vecap_tasks.train.source import Shard, Tally, parse_samples, usable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoundTar:
    """A tar that is there: `path` as the configuration writes it, `place` on this machine or S3. `etag` is S3's."""

    path: str
    place: str
    bytes: int
    etag: str | None

    @property
    def check(self) -> str:
        """Return what tells these bytes from others: S3's own tag, or the sha256 of a file, which is read for it."""
        if self.etag is not None:
            return f"etag:{self.etag}"
        filesystem, path = open_filesystem(self.place)
        with filesystem.open_input_stream(path) as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"

    def shard(self, counted: Mapping[Arm, int] | None = None) -> Shard:
        filesystem, path = open_filesystem(self.place)
        return Shard(self.path, filesystem, path, counted)


def find_tars(config: Config, patterns: Sequence[str]) -> list[FoundTar]:
    """Return the tars of *patterns*, in their order and by name within one; each once.

    Raises VecapError for a pattern that finds nothing, or a place that cannot be read.
    """
    found: dict[str, FoundTar] = {}
    for pattern in patterns:
        for tar in _find(config, pattern):
            found.setdefault(tar.place, tar)
    return list(found.values())


def _find(config: Config, written: str) -> list[FoundTar]:
    folder, tail = split_glob(written, config.resolve)
    matches: Callable[[str], object] = re.compile(glob_translate(tail)).match
    if not tail:
        folder, tail = written[: written.rfind("/") + 1], written[written.rfind("/") + 1 :]
        matches = tail.__eq__
    place = config.resolve(folder or ".").removeprefix("file://")
    if "://" in place and not place.startswith("s3://"):
        raise VecapError(f"train.mixture: {written} is neither on this machine nor on s3://; copy it first")
    place = place.rstrip("/") or "/"
    try:
        listed = _list_s3(place) if place.startswith("s3://") else _list_local(place, recursive="/" in tail)
    except OSError as error:
        raise VecapError(
            f"train.mixture: {place} cannot be read: {' '.join(str(error).split())}; check the path and the rights"
        ) from error
    tars = [
        FoundTar(f"{folder}{name}", f"{place}/{name}", size, etag)
        for name, (size, etag) in sorted(listed.items())
        if matches(name)
    ]
    if not tars:
        raise VecapError(f"train.mixture: there is no tar {place}/{tail}; put it there, or change `paths`")
    return tars


_Listed = dict[str, tuple[int, str | None]]


def _list_local(place: str, *, recursive: bool) -> _Listed:
    infos = pafs.LocalFileSystem().get_file_info(pafs.FileSelector(place, allow_not_found=True, recursive=recursive))
    start = len(place.rstrip("/")) + 1
    return {info.path[start:]: (info.size, None) for info in infos if info.type == pafs.FileType.File}


def _list_s3(place: str) -> _Listed:
    """List by boto3: pyarrow does not say the ETag."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    try:
        pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {
            item["Key"].removeprefix(prefix): (item["Size"], item["ETag"].strip('"'))
            for page in pages
            for item in page.get("Contents", [])
        }
    except (BotoCoreError, ClientError) as error:
        raise OSError(str(error)) from error


def count_tars(
    tars: Sequence[FoundTar], texts: Mapping[Text, str], known: Sequence[TarPart], threads: int
) -> tuple[TarPart, ...]:
    """Read every tar once and say what is in it; *known* ones of the same name, size and ETag are not read again."""
    before = {(tar.path, tar.bytes): tar for tar in known}

    def count(tar: FoundTar) -> TarPart:
        found = before.get((tar.path, tar.bytes))
        if found is not None and (tar.etag is None or found.check == tar.check):
            return found
        log.info("counting %s (%s bytes)", tar.path, f"{tar.bytes:,}")
        return _count(tar, texts)

    with ThreadPoolExecutor(threads, thread_name_prefix="count") as pool:
        return tuple(pool.map(count, tars))


def _count(tar: FoundTar, texts: Mapping[Text, str]) -> TarPart:
    counted: dict[Arm, int] = dict.fromkeys(get_args(Arm), 0)
    tally = Tally()
    shard = tar.shard()
    places = {text: (place,) for text, place in texts.items()}
    with shard.open() as stream:
        for written in parse_samples(stream, shard.name, places, tally, own=False):
            for arm in counted:
                counted[arm] += usable(written, arm)
    return TarPart(tar.path, tar.bytes, tar.check, tally.samples, counted, dict(sorted(tally.skipped.items())))
