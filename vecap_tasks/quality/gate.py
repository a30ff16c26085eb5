"""The quality gate: limits on the measures of a crawl, and its drift from earlier versions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from vecap_tasks.config import Bound, Drift, Gate, Level
from vecap_tasks.core.manifest import read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version, list_versions, published
from vecap_tasks.quality.measures import Measured

MEASURES = "report/measures.json"
_DISTRIBUTIONS = ("hosts", "languages", "alttext_chars", "sides")
_SHARES = {
    "download_share": ("downloaded_rows", "rows"),
    "duplicate_share": ("duplicate_rows", "downloaded_rows"),
    "accepted_share": ("accepted_rows", "rows"),
}
_SMALL = 0.01  # a share below this is taken for it: from 0.1 % to 0.2 % is no doubling that matters


@dataclass(frozen=True, slots=True)
class PreviousVersion:
    """A published version that is compared with: its name, its verdicts' manifest digest, and its figures."""

    version: str
    digest: str
    measured: Measured


@dataclass(frozen=True, slots=True)
class DriftResult:
    """One distance, and in words what has changed most."""

    name: str
    distance: float
    words: str


def previous_versions(store: Store, version: Version, count: int) -> list[PreviousVersion]:
    """Return the latest *count* published intervals before that of *version*, the latest first, each once."""
    last = {
        other.interval: other
        for other in (list_versions(store, version.dataset) if count else ())
        if other.interval < version.interval and published(store, other) is not None
    }
    found = []
    for _, other in sorted(last.items(), reverse=True):
        manifest = read_manifest(store, f"{other.folder}/quality")
        if manifest is not None and any(entry.path == MEASURES for entry in manifest.files):
            measured = Measured.from_json(store.read(manifest.file(MEASURES)))
            found.append(PreviousVersion(other.name, manifest.digest, measured))
        if len(found) == count:
            break
    return found


def measure_drift(now: Measured, earlier: Sequence[PreviousVersion]) -> tuple[DriftResult, ...]:
    """Return how far *now* is from all of *earlier* together; nothing where there is none, or no row now."""
    if not earlier or not now.measures.rows:
        return ()
    found = []
    for name in _DISTRIBUTIONS:
        before: Counter[str] = Counter()
        for one in earlier:
            before.update(getattr(one.measured.distributions, name))
        after = getattr(now.distributions, name)
        if before and after:
            found.append(DriftResult(name, jensen_shannon(before, after), _most_moved(before, after)))
        else:
            found.append(
                DriftResult(name, float(bool(before or after)), "rows on one side only" if before or after else "")
            )
    for name, (part, whole) in _SHARES.items():
        parts, wholes = (sum(getattr(one.measured.measures, field) for one in earlier) for field in (part, whole))
        was = parts / wholes if wholes else 0.0
        current = getattr(now.measures, name)
        change = abs(current - was) / max(was, _SMALL)
        found.append(DriftResult(name, round(change, 6), f"from {was:.1%} to {current:.1%}"))
    return tuple(found)


def jensen_shannon(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Return the Jensen-Shannon distance of two histograms, 0 to 1. Raises ZeroDivisionError where one has no rows."""
    total_one, total_other = sum(one.values()), sum(other.values())
    divergence = 0.0
    for name in sorted(one.keys() | other.keys()):
        p, q = one.get(name, 0) / total_one, other.get(name, 0) / total_other
        middle = (p + q) / 2
        divergence += sum(share * math.log2(share / middle) for share in (p, q) if share) / 2
    return round(math.sqrt(min(max(divergence, 0.0), 1.0)), 6)


def _most_moved(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    shares = [({name: count / sum(side.values()) for name, count in side.items()}) for side in (before, after)]
    names = sorted(shares[0].keys() | shares[1].keys())
    name = max(names, key=lambda one: abs(shares[0].get(one, 0) - shares[1].get(one, 0)))
    return f"{name} from {shares[0].get(name, 0):.1%} to {shares[1].get(name, 0):.1%}"


def as_json(earlier: Sequence[PreviousVersion], found: Sequence[DriftResult]) -> dict[str, object]:
    """Return what was compared and found, for a file."""
    versions = [{"version": one.version, "digest": one.digest} for one in earlier]
    return {"compared_with": versions, "moved": [asdict(one) for one in found]}


@dataclass(frozen=True, slots=True)
class Limit:
    """What is asked of a measure: at least `least`, or at most `most`; else the version is stopped, or warned of."""

    measure: str
    minimum: float | None = None
    maximum: float | None = None
    level: Level = "stop"

    def __str__(self) -> str:
        return (
            f"at least {self.minimum:g} is asked"
            if self.minimum is not None
            else f"at most {self.maximum:g} is allowed"
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that failed or could not be evaluated: what was expected, and what was found."""

    subject: str  # measures, sample or drift
    column: str
    found: str
    level: Level = "stop"

    def __str__(self) -> str:
        where = " (in the sample)" if self.subject == "sample" else ""
        return f"{self.column} {self.found}{where}"


def limits(gate: Gate) -> tuple[Limit, ...]:
    """Return what *gate* asks, and what holds for every crawl; the first that fails is what a user is told."""
    return (
        Limit("rows", minimum=1),
        *_least("accepted_rows", gate.min_accepted_rows),
        *_least("download_share", gate.min_download_share),
        *_least("accepted_share", gate.min_accepted_share),
        *_most("duplicate_share", gate.max_duplicate_share),
        *_least("alttext_share", gate.min_alttext_share),
        *_most("largest_host_share", gate.max_host_share),
        Limit("rows_without_verdict", maximum=0, level=gate.completeness),
        Limit("repeated_keys", maximum=0, level=gate.uniqueness),
        Limit("repeated_uids", maximum=0, level=gate.uniqueness),
        Limit("downloads_without_sha256", maximum=0, level=gate.completeness),
    )


def drift_limits(drift: Drift) -> tuple[Limit, ...]:
    """Return what *drift* allows, by the names of the fields of `Drift` that are bounds."""
    bounds = {name: getattr(drift, name) for name in type(drift).model_fields}
    return tuple(limit for name, bound in bounds.items() if isinstance(bound, Bound) for limit in _most(name, bound))


def _least(measure: str, bound: Bound) -> tuple[Limit, ...]:
    return tuple(Limit(measure, minimum=value, level=level) for level, value in _levels(bound))


def _most(measure: str, bound: Bound) -> tuple[Limit, ...]:
    return tuple(Limit(measure, maximum=value, level=level) for level, value in _levels(bound))


def _levels(bound: Bound) -> list[tuple[Level, float]]:
    warn = None if bound.warn == bound.stop else bound.warn
    given: list[tuple[Level, float | None]] = [("stop", bound.stop), ("warn", warn)]
    return [(level, value) for level, value in given if value is not None]
