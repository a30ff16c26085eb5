"""The quality gate: limits on the measures of a crawl and on its drift from previous versions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from vecap_tasks.config import Bound, Drift, Gate, Level
from vecap_tasks.core.manifest import read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import read_file
from vecap_tasks.core.version import Version, list_versions, published
from vecap_tasks.quality.measures import Measured

MEASURES = "report/measures.json"
_DISTRIBUTIONS = ("hosts", "languages", "alttext_chars", "sides")
_SHARES = {
    "download_share": ("downloaded_rows", "rows"),
    "duplicate_share": ("duplicate_rows", "downloaded_rows"),
    "accepted_share": ("accepted_rows", "rows"),
}
_MIN_BASE_SHARE = 0.01  # relative changes use at least this base, so that 0.1 % to 0.2 % is not a doubling


@dataclass(frozen=True, slots=True)
class PreviousVersion:
    """A published version to compare with: its name, the digest of its quality manifest, and its measures."""

    version: str
    digest: str
    measured: Measured


@dataclass(frozen=True, slots=True)
class DriftResult:
    """One distance, and the largest change in words."""

    name: str
    distance: float
    words: str


def previous_versions(store: Store, version: Version, count: int) -> list[PreviousVersion]:
    """Return the newest published versions of the *count* latest intervals before *version*, newest first."""
    newest = {
        other.interval: other
        for other in (list_versions(store, version.dataset) if count else ())
        if other.interval < version.interval and published(store, other) is not None
    }
    previous = []
    for _, other in sorted(newest.items(), reverse=True):
        manifest = read_manifest(store, f"{other.folder}/quality")
        if manifest is not None and any(entry.path == MEASURES for entry in manifest.files):
            measured = Measured.from_json(read_file(store, manifest, MEASURES))
            previous.append(PreviousVersion(other.name, manifest.digest, measured))
        if len(previous) == count:
            break
    return previous


def measure_drift(current: Measured, previous: Sequence[PreviousVersion]) -> tuple[DriftResult, ...]:
    """Return the distances of *current* from the pooled *previous* versions; empty if either side has no rows."""
    if not previous or not current.measures.rows:
        return ()
    results = []
    for name in _DISTRIBUTIONS:
        before: Counter[str] = Counter()
        for version in previous:
            before.update(getattr(version.measured.distributions, name))
        after = getattr(current.distributions, name)
        if before and after:
            results.append(DriftResult(name, jensen_shannon(before, after), _largest_change(before, after)))
        else:
            results.append(
                DriftResult(name, float(bool(before or after)), "rows on one side only" if before or after else "")
            )
    for name, (part, whole) in _SHARES.items():
        parts, wholes = (sum(getattr(v.measured.measures, field) for v in previous) for field in (part, whole))
        old_share = parts / wholes if wholes else 0.0
        new_share = getattr(current.measures, name)
        change = abs(new_share - old_share) / max(old_share, _MIN_BASE_SHARE)
        results.append(DriftResult(name, round(change, 6), f"from {old_share:.1%} to {new_share:.1%}"))
    return tuple(results)


def jensen_shannon(left: Mapping[str, int], right: Mapping[str, int]) -> float:
    """Return the Jensen-Shannon distance of two histograms, 0 to 1. Raises ZeroDivisionError if one has no rows."""
    left_total, right_total = sum(left.values()), sum(right.values())
    divergence = 0.0
    for name in sorted(left.keys() | right.keys()):
        p, q = left.get(name, 0) / left_total, right.get(name, 0) / right_total
        mean = (p + q) / 2
        divergence += sum(share * math.log2(share / mean) for share in (p, q) if share) / 2
    return round(math.sqrt(min(max(divergence, 0.0), 1.0)), 6)


def _largest_change(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    old, new = ({name: count / sum(side.values()) for name, count in side.items()} for side in (before, after))
    name = max(sorted(old.keys() | new.keys()), key=lambda name: abs(old.get(name, 0) - new.get(name, 0)))
    return f"{name} from {old.get(name, 0):.1%} to {new.get(name, 0):.1%}"


def drift_findings(previous: Sequence[PreviousVersion], results: Sequence[DriftResult]) -> dict[str, object]:
    """Return the drift section of `findings.json`."""
    versions = [{"version": version.version, "digest": version.digest} for version in previous]
    return {"compared_with": versions, "moved": [asdict(result) for result in results]}


@dataclass(frozen=True, slots=True)
class Limit:
    """A minimum or a maximum of a measure; a violation stops the version or warns, by *level*."""

    measure: str
    minimum: float | None = None
    maximum: float | None = None
    level: Level = "stop"

    def __str__(self) -> str:
        return f"minimum {self.minimum:g}" if self.minimum is not None else f"maximum {self.maximum:g}"


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that failed or could not be evaluated."""

    subject: str  # measures, sample or drift
    column: str
    found: str
    level: Level = "stop"

    def __str__(self) -> str:
        where = " (in the sample)" if self.subject == "sample" else ""
        return f"{self.column} {self.found}{where}"


def limits(gate: Gate) -> tuple[Limit, ...]:
    """Return the limits of *gate* and those of every crawl; the error message names the first that fails."""
    return (
        Limit("rows", minimum=1),
        *_minimum("accepted_rows", gate.min_accepted_rows),
        *_minimum("download_share", gate.min_download_share),
        *_minimum("accepted_share", gate.min_accepted_share),
        *_maximum("duplicate_share", gate.max_duplicate_share),
        *_minimum("alttext_share", gate.min_alttext_share),
        *_maximum("largest_host_share", gate.max_host_share),
        Limit("rows_without_verdict", maximum=0, level=gate.completeness),
        Limit("repeated_keys", maximum=0, level=gate.uniqueness),
        Limit("repeated_uids", maximum=0, level=gate.uniqueness),
        Limit("downloads_without_sha256", maximum=0, level=gate.completeness),
    )


def drift_limits(drift: Drift) -> tuple[Limit, ...]:
    """Return the limits of *drift*, named as the fields of `Drift`."""
    bounds = {name: getattr(drift, name) for name in type(drift).model_fields}
    return tuple(limit for name, bound in bounds.items() if isinstance(bound, Bound) for limit in _maximum(name, bound))


def _minimum(measure: str, bound: Bound) -> tuple[Limit, ...]:
    return tuple(Limit(measure, minimum=value, level=level) for level, value in _levels(bound))


def _maximum(measure: str, bound: Bound) -> tuple[Limit, ...]:
    return tuple(Limit(measure, maximum=value, level=level) for level, value in _levels(bound))


def _levels(bound: Bound) -> list[tuple[Level, float]]:
    warn = None if bound.warn == bound.stop else bound.warn
    values: list[tuple[Level, float | None]] = [("stop", bound.stop), ("warn", warn)]
    return [(level, value) for level, value in values if value is not None]
