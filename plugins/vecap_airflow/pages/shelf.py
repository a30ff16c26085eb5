"""The dataset that the pages show: its versions, their rows and pictures, kept open between requests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vecap_airflow.job import REPOSITORY
from vecap_tasks.browse.picture import read_picture
from vecap_tasks.browse.rows import Row, Samples
from vecap_tasks.config import Config, load_config
from vecap_tasks.dataset.diff import Diff, diff
from vecap_tasks.dataset.manifest import Manifest, read_manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.summary import Summary, summarise
from vecap_tasks.dataset.version import Version, list_versions, published, read_version

_OPEN = 16  # versions whose tables are kept open
_COMPARED = 8  # revisions of an image side by side


@dataclass(frozen=True, slots=True)
class Story:
    """One version: what became of its rows, and what is different from the one before."""

    summary: Summary
    manifests: dict[str, Manifest]
    before: Diff | None


class Shelf:
    """Every version of one dataset."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.dataset = config.dataset
        self._store = Store(config.resolve(config.root))
        self._samples = lru_cache(maxsize=_OPEN)(self._open)

    def versions(self, first: int, count: int) -> tuple[list[Summary], int]:
        """Return *count* versions, the newest first, from number *first* on, and how many there are."""
        found = self._newest()
        return [summarise(self._store, version) for version in found[first : first + count]], len(found)

    def story(self, name: str) -> Story:
        """Raises VecapError for a version that is not there."""
        version = read_version(self._store, self.dataset, name)
        stages = ("crawl", "quality", "rewrite", "assemble")
        found = {stage: read_manifest(self._store, f"{version.folder}/{stage}") for stage in stages}
        manifests = {stage: manifest for stage, manifest in found.items() if manifest is not None}
        summary = summarise(self._store, version)
        earlier = self._before(version) if summary.digest else None
        return Story(summary, manifests, diff(self._store, earlier, version) if earlier else None)

    def samples(self, name: str) -> Samples:
        """Raises VecapError for a version that has no captions."""
        version = read_version(self._store, self.dataset, name)
        manifest = read_manifest(self._store, f"{version.folder}/rewrite")
        return self._samples(version, manifest.digest if manifest else "")

    def picture(self, name: str, key: str) -> bytes | None:
        return read_picture(self._store, self.samples(name).crawl, key)

    def revisions(self, uid: str) -> list[tuple[str, Row]]:
        """Return the rows of the sample *uid* in the newest versions that have it, with the versions' names."""
        found = []
        for version in self._newest():
            if published(self._store, version) is not None:
                row = self.samples(version.name).row(uid)
                if row is not None:
                    found.append((version.name, row))
            if len(found) == _COMPARED:
                break
        return found

    def _open(self, version: Version, digest: str) -> Samples:  # the digest is part of what is remembered
        return Samples(self._store, version)

    def _newest(self) -> list[Version]:
        return list_versions(self._store, self.dataset)[::-1]

    def _before(self, version: Version) -> Version | None:
        for other in self._newest():
            earlier = (other.interval, other.revision) < (version.interval, version.revision)
            if earlier and published(self._store, other) is not None:
                return other
        return None


@lru_cache(maxsize=4)
def _shelf(path: str, stamp: float) -> Shelf:
    return Shelf(load_config(path))


def open_shelf(config: str) -> Shelf:
    """Return the dataset of the configuration file; read again where the file was changed. Raises ConfigError."""
    path = REPOSITORY / config
    return _shelf(str(path), path.stat().st_mtime if path.is_file() else 0.0)
