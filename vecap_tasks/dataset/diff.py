"""What changed between two published versions: rows, captions, acceptance, configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.query import connect, create_view
from vecap_tasks.dataset.schemas import SAMPLES
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.summary import Summary, summarise
from vecap_tasks.dataset.version import Version, published, read_config
from vecap_tasks.errors import VecapError


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs; None where it does not exist."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Diff:
    """Samples are told apart by uid; `recaptioned` ones are in both with another VeCap. Lengths are characters."""

    a: Summary
    b: Summary
    added: int
    gone: int
    kept: int
    recaptioned: int
    mean_length_a: float
    mean_length_b: float
    settings: tuple[Change, ...]


def diff(store: Store, a: Version, b: Version) -> Diff:
    """Compare two versions of a dataset. Raises VecapError where one is not published."""
    manifests = [_published(store, version) for version in (a, b)]
    with connect(store) as connection:
        for name, manifest in zip("ab", manifests, strict=True):
            create_view(connection, store, name, manifest.files_ending(".parquet"), SAMPLES)
        row = connection.execute(
            """
            SELECT count(*) FILTER (a.uid IS NULL), count(*) FILTER (b.uid IS NULL),
                   count(*) FILTER (a.uid = b.uid), count(*) FILTER (a.uid = b.uid AND a.vecap <> b.vecap),
                   coalesce(avg(length(a.vecap)), 0), coalesce(avg(length(b.vecap)), 0)
            FROM a FULL JOIN b ON a.uid = b.uid
            """
        ).fetchall()[0]
    return Diff(
        a=summarise(store, a),
        b=summarise(store, b),
        added=row[0],
        gone=row[1],
        kept=row[2],
        recaptioned=row[3],
        mean_length_a=round(row[4], 1),
        mean_length_b=round(row[5], 1),
        settings=tuple(_settings(store, a, b)),
    )


def _published(store: Store, version: Version) -> Manifest:
    manifest = published(store, version)
    if manifest is None:
        raise VecapError(f"version {version.name} is not published; finish it with `vecap run`")
    return manifest


def _settings(store: Store, a: Version, b: Version) -> Iterator[Change]:
    one, other = (dict(_flat(read_config(store, version))) for version in (a, b))
    for key in sorted(one.keys() | other.keys()):
        if one.get(key) != other.get(key):
            yield Change(key, one.get(key), other.get(key))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def format_diff(found: Diff) -> str:
    """Return the comparison for a person."""
    a, b = found.a, found.b
    lines = [
        f"{a.version} -> {b.version}",
        f"  samples      {a.assembled:,} -> {b.assembled:,}: {found.added:,} added, {found.gone:,} gone, "
        f"{found.kept:,} kept",
        f"  recaptioned  {found.recaptioned:,} of those kept",
        f"  accepted     {_share(a)} -> {_share(b)} of the rows crawled",
        f"  VeCap        {found.mean_length_a} -> {found.mean_length_b} characters on average",
    ]
    if not found.settings:
        lines.append("  settings     the same")
    lines += [f"  {change.key}: {change.a!r} -> {change.b!r}" for change in found.settings]
    return "\n".join(lines)


def _share(summary: Summary) -> str:
    return f"{summary.accepted / summary.crawled:.1%}" if summary.crawled else "none"
