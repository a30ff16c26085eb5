"""What a run finds when it opens a version: a finished one, a new revision and why it is one, or work to go on with."""

from __future__ import annotations

from dataclasses import dataclass

from vecap_tasks.dataset.settings import Change, changed_settings
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import Version, list_versions, published

_TOLD = 6  # settings that the line names


@dataclass(frozen=True, slots=True)
class Opened:
    """`digest` is that of the published content, None while it is being made; `beside` is the version of the interval
    before it, None for the first, and `changes` the settings that differ from it."""

    version: Version
    digest: str | None
    beside: Version | None
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        name = self.version.name
        state = "is made"
        if self.digest is not None:
            state = f"is published under this configuration ({self.digest[:12]}), nothing of it is made again"
        if self.beside is None:
            return f"version {name} {state}"
        told = "; ".join(str(change) for change in self.changes[:_TOLD])
        more = f"; and {len(self.changes) - _TOLD} more" if len(self.changes) > _TOLD else ""
        return f"version {name} {state}; it is a revision beside {self.beside.name}: {told}{more}"


def look_up(store: Store, version: Version) -> Opened:
    """Say what there is of the registered *version*. Raises DamagedError."""
    manifest = published(store, version)
    before = [v for v in list_versions(store, version.dataset, version.interval) if v.revision < version.revision]
    seen = [v for v in before if published(store, v) is not None]
    beside = next(reversed(seen or before), None)
    changes = changed_settings(store, beside, version) if beside is not None else ()
    return Opened(version, manifest.digest if manifest else None, beside, changes)
