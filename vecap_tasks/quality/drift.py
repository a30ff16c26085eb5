"""How far a crawl is from those published before it. It decides what is told and what is refused, never a row.

Distributions are compared by the Jensen-Shannon distance (Lin, "Divergence Measures Based on the Shannon Entropy",
1991; the square root, to base 2): from 0 to 1, whatever has no rows on one side, which the population stability index
cannot say. Shares are compared as parts of what they were.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from vecap_tasks.dataset.manifest import read_manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import Version, list_versions, published
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
class Earlier:
    """A published version that is compared with: its name, its verdicts' manifest digest, and its figures."""

    version: str
    digest: str
    measured: Measured


@dataclass(frozen=True, slots=True)
class Moved:
    """One distance, and in words what has changed most."""

    name: str
    distance: float
    words: str


def earlier_versions(store: Store, version: Version, count: int) -> list[Earlier]:
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
            found.append(Earlier(other.name, manifest.digest, measured))
        if len(found) == count:
            break
    return found


def moved(now: Measured, earlier: Sequence[Earlier]) -> tuple[Moved, ...]:
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
            found.append(Moved(name, jensen_shannon(before, after), _most_moved(before, after)))
        else:
            found.append(Moved(name, float(bool(before or after)), "rows on one side only" if before or after else ""))
    for name, (part, whole) in _SHARES.items():
        parts, wholes = (sum(getattr(one.measured.measures, field) for one in earlier) for field in (part, whole))
        was = parts / wholes if wholes else 0.0
        current = getattr(now.measures, name)
        change = abs(current - was) / max(was, _SMALL)
        found.append(Moved(name, round(change, 6), f"from {was:.1%} to {current:.1%}"))
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


def as_json(earlier: Sequence[Earlier], found: Sequence[Moved]) -> dict[str, object]:
    """Return what was compared and found, for a file."""
    versions = [{"version": one.version, "digest": one.digest} for one in earlier]
    return {"compared_with": versions, "moved": [asdict(one) for one in found]}
