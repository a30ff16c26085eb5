"""An earlier crawl of the interval whose failed rows are tried again; all its other rows are taken over as they are.

What is published is never changed: the revision that comes of it lies beside the earlier version, with all rows, and
its manifest names the crawl that it was made from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import IO, Any

import pyarrow.parquet as pq

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Input, Manifest, read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import read_samples
from vecap_tasks.core.version import interval_of, read_version
from vecap_tasks.crawl.image.decode import DecodedImage
from vecap_tasks.crawl.shard_images import SUCCESS, Outcome, Spool
from vecap_tasks.errors import CorruptError, Failure, PermanentError

# What another try does not change: somebody's decision, or what the image is. All that is not named here may pass.
# A change of this list changes what a retry makes: raise the stage's `revision` with it.
PERMANENT = frozenset(
    {
        "bad_url", "scheme", "forbidden_address", "robots", "opt_out", "bad_redirect", "too_many_redirects",
        "too_large", "bad_encoding", "not_an_image", "damaged", "unsupported", "too_many_pixels",
        "too_many_scans", "too_long",
    }
)  # fmt: skip
_REFUSED = re.compile(r"http_[1-4]\d\d")
_PASSING = frozenset({"http_408", "http_425", "http_429"})  # too early, too often: RFC 9110, RFC 8470, RFC 6585
_MAY_DIFFER = ("fetch", "retry_failed")  # settings under which the rows that are taken over would be the same


def is_permanent(reason: str) -> bool:
    """Say whether a row that failed for *reason* is left as it is, unless its reason is asked for."""
    return reason in PERMANENT or (_REFUSED.fullmatch(reason) is not None and reason not in _PASSING)


@dataclass(frozen=True, slots=True)
class PreviousCrawl:
    """A finished crawl. `reasons` are those that are tried again."""

    store: Store
    version: str
    manifest: Manifest
    reasons: frozenset[str]

    @property
    def input(self) -> Input:
        return Input("dataset", f"{self.version}/crawl", self.manifest.digest)

    def read(self, path: str) -> bytes:
        """Return a file of the crawl. Raises CorruptError where it is not what its manifest says."""
        with self._open(path) as stream:
            return stream.read()

    def outcomes(self, shard: str, spool: Spool) -> list[Outcome | None]:
        """Return what became of each row of *shard*, the JPEGs going to *spool*; None where it is to be tried again.

        Raises CorruptError.
        """
        with self._open(f"{shard}.parquet") as stream:
            rows = pq.read_table(stream).to_pylist()
        lengths = dict(self._images(shard, spool)) if any(row["status"] == SUCCESS for row in rows) else {}
        return [self._outcome(row, *lengths.get(row["key"], (0, 0))) for row in rows]

    def _images(self, shard: str, spool: Spool) -> Iterator[tuple[str, tuple[int, int]]]:
        """Copy the JPEGs to *spool*; give their keys, and where they lie in it."""
        with self._open(f"{shard}.tar") as stream:
            for sample in read_samples(stream, self.manifest.file(f"{shard}.tar"), ("jpg",)):
                jpeg = sample.members["jpg"]
                yield sample.key, (spool.append(jpeg), len(jpeg))

    def _outcome(self, row: dict[str, Any], offset: int, length: int) -> Outcome | None:
        if row["status"] == SUCCESS:
            image = DecodedImage(**{field.name: row[field.name] for field in fields(DecodedImage)})
            return Outcome(SUCCESS, None, row["sha256"], row["original_bytes"], image, offset, length)
        reason, _, detail = row["error_message"].partition(": ")
        if reason in self.reasons:
            return None
        return Outcome(row["status"], Failure(reason, detail), row["sha256"], row["original_bytes"])

    @contextmanager
    def _open(self, path: str) -> Iterator[IO[bytes]]:
        name = self.manifest.file(path)
        entry = next(entry for entry in self.manifest.files if entry.path == path)
        try:
            sound = self.store.sha256(name) == entry.sha256
        except FileNotFoundError:
            sound = False
        if not sound:
            raise CorruptError(f"{name} is missing or was changed, and cannot be taken over; restore it")
        with self.store.local(name) as local, local.open("rb") as stream:
            yield stream


def open_previous(store: Store, config: Config, interval: str) -> PreviousCrawl | None:
    """Return the crawl that `crawl.retry_failed` names, None where it is not set.

    Raises VecapError where that is of another interval, is not finished, was made under settings that the rest of
    its rows would differ under, or has no row to try again.
    """
    retry = config.crawl.retry_failed
    if retry is None:
        return None
    if interval_of(retry.version) != interval:
        raise PermanentError(
            f"crawl.retry_failed.version: {retry.version} is no version of {interval}; name one, or leave it out"
        )
    version = read_version(store, config.dataset, retry.version)
    manifest = read_manifest(store, f"{version.folder}/crawl")
    if manifest is None:
        raise PermanentError(f"version {retry.version} has no crawl to take over; finish it with `vecap crawl`")
    now = config.crawl.identity()
    for name in sorted(now.keys() | manifest.config.keys()):
        if name not in _MAY_DIFFER and now.get(name) != manifest.config.get(name):
            raise PermanentError(
                f"version {retry.version} was crawled with another crawl.{name}; restore it or crawl everything again"
            )
    failed = {
        name.removeprefix("error."): count for name, count in manifest.counters.items() if name.startswith("error.")
    }
    asked = set(retry.reasons) or {reason for reason in failed if not is_permanent(reason)}
    if not asked & failed.keys():
        there = ", ".join(f"{reason} ({count:,})" for reason, count in sorted(failed.items())) or "none"
        wanted = ", ".join(sorted(asked)) or "that may pass"
        raise PermanentError(f"version {retry.version} has no failed row with a reason {wanted}; there are: {there}")
    return PreviousCrawl(store, retry.version, manifest, frozenset(asked))
