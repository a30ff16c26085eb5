"""An earlier crawl of the interval whose failed rows are retried; all other rows are reused unchanged.

The retry publishes a new revision with all rows; its manifest lists the earlier crawl as an input.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Input, Manifest, read_manifest
from vecap_tasks.core.schemas import CANDIDATES, KEPT
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import RecordedFile, recorded_files
from vecap_tasks.core.version import interval_of, read_version
from vecap_tasks.crawl.candidates import parse_stats, read_stats
from vecap_tasks.crawl.image.decoded import DecodedImage
from vecap_tasks.crawl.shard_images import SUCCESS, Outcome, Spool
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.errors import Failure, PermanentError

# Failures that a retry cannot change: decisions of site owners, or properties of the image. All others may pass.
# If you change this list, increase the stage's `revision`.
PERMANENT_REASONS = frozenset(
    {
        "bad_url", "scheme", "forbidden_address", "robots", "opt_out", "bad_redirect", "too_many_redirects",
        "too_large", "bad_encoding", "not_an_image", "damaged", "unsupported", "too_many_pixels",
        "too_many_scans", "too_long",
    }
)  # fmt: skip
CANDIDATES_FILE = "candidates.json"  # the counters and inputs of the source
_OLD_CANDIDATES = "candidates.parquet"  # of earlier releases, with these in its footer
_SHARD_TABLE = re.compile(r"(\d+)\.parquet")
_HTTP_ERROR = re.compile(r"http_[1-4]\d\d")
_TEMPORARY_STATUSES = frozenset({"http_408", "http_425", "http_429"})  # RFC 9110, RFC 8470, RFC 6585
_IGNORED_SETTINGS = ("fetch", "retry_failed")  # settings that do not affect reused rows


def is_permanent(reason: str) -> bool:
    """Return whether rows that failed for *reason* are retried only if the reason is listed explicitly."""
    return reason in PERMANENT_REASONS or (
        _HTTP_ERROR.fullmatch(reason) is not None and reason not in _TEMPORARY_STATUSES
    )


@dataclass(frozen=True)  # without slots, for its cached property
class PreviousCrawl:
    """A finished crawl. Rows that failed for one of `reasons` are retried."""

    store: Store
    version: str
    manifest: Manifest
    reasons: frozenset[str]

    @property
    def input(self) -> Input:
        return Input("dataset", f"{self.version}/crawl", self.manifest.digest)

    @cached_property
    def stats(self) -> Stats:
        """The stats of the candidates."""
        if CANDIDATES_FILE in self.manifest.entries:
            return parse_stats(json.loads(self._file(CANDIDATES_FILE).read()))
        return read_stats(pq.read_metadata(io.BytesIO(self._file(_OLD_CANDIDATES).read())))

    @property
    def shards(self) -> list[str]:
        """The names of the shards, in order."""
        return [found[1] for found in map(_SHARD_TABLE.fullmatch, self.manifest.entries) if found]

    def candidates(self, shard: str) -> pa.Table:
        """Return the candidates of *shard*. Raises CorruptError if the file differs from its manifest."""
        table = pq.read_table(io.BytesIO(self._file(f"{shard}.parquet").read()))
        return table.select([name for name in (*CANDIDATES.names, KEPT.name) if name in table.column_names])

    def outcomes(self, shard: str, spool: Spool) -> list[Outcome | None]:
        """Return the outcome of each row of *shard*, None for rows to retry; append the JPEGs to *spool*.

        Raises CorruptError if a file differs from its manifest.
        """
        rows = pq.read_table(io.BytesIO(self._file(f"{shard}.parquet").read())).to_pylist()
        stored = {row["key"]: row for row in rows if row["status"] == SUCCESS}
        spans: dict[str, tuple[int, int]] = {}
        if stored:
            tar = self._file(f"{shard}.tar")
            for key, jpeg in tar.images({key: row.get("jpeg_sha256") for key, row in stored.items()}):
                stored[key].setdefault("jpeg_sha256", hashlib.sha256(jpeg).hexdigest())
                spans[key] = spool.append(jpeg), len(jpeg)
        return [self._outcome(row, *spans.get(row["key"], (0, 0))) for row in rows]

    def _outcome(self, row: dict[str, Any], offset: int, length: int) -> Outcome | None:
        if row["status"] == SUCCESS:
            image = DecodedImage(**{field.name: row[field.name] for field in fields(DecodedImage)})
            return Outcome(SUCCESS, None, row["sha256"], row["original_bytes"], image, offset, length)
        reason, _, detail = row["error_message"].partition(": ")
        if reason in self.reasons:
            return None
        return Outcome(row["status"], Failure(reason, detail), row["sha256"], row["original_bytes"])

    def _file(self, path: str) -> RecordedFile:
        names = [self.manifest.file(path)]
        return recorded_files(self.store, self.manifest, names, "restore it, or crawl everything again")[0]


def open_previous(store: Store, config: Config, interval: str) -> PreviousCrawl | None:
    """Return the crawl that `crawl.retry_failed` names, None if not set.

    Raises VecapError if it belongs to another interval, is not finished, used different settings, or has no row to
    retry.
    """
    retry = config.crawl.retry_failed
    if retry is None:
        return None
    if interval_of(retry.version) != interval:
        raise PermanentError(
            f"crawl.retry_failed.version: {retry.version} is not a version of {interval}; name one of that interval"
        )
    version = read_version(store, config.dataset, retry.version)
    manifest = read_manifest(store, f"{version.folder}/crawl")
    if manifest is None:
        raise PermanentError(f"version {retry.version} has no finished crawl; finish it with `vecap crawl`")
    current = config.crawl.identity()
    for name in sorted(current.keys() | manifest.config.keys()):
        if name not in _IGNORED_SETTINGS and current.get(name) != manifest.config.get(name):
            raise PermanentError(
                f"version {retry.version} used a different crawl.{name}; restore it or crawl everything again"
            )
    failed = {
        name.removeprefix("error."): count for name, count in manifest.counters.items() if name.startswith("error.")
    }
    reasons = set(retry.reasons) or {reason for reason in failed if not is_permanent(reason)}
    if not reasons & failed.keys():
        failures = ", ".join(f"{reason} ({count:,})" for reason, count in sorted(failed.items())) or "none"
        wanted = ", ".join(sorted(retry.reasons)) or "any reason that may pass"
        raise PermanentError(f"version {retry.version} has no failed rows for {wanted}; its failures: {failures}")
    return PreviousCrawl(store, retry.version, manifest, frozenset(reasons))
