"""One version in a line: how many rows reached each stage."""

from __future__ import annotations

from dataclasses import dataclass

from vecap_tasks.dataset.manifest import Manifest, read_manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import Version


@dataclass(frozen=True, slots=True)
class Summary:
    """Rows after each stage; 0 where a stage is not done. `warnings` are the gate's; `digest` is the published
    content's, None until then."""

    version: str
    interval: str
    revision: int
    crawled: int
    downloaded: int
    accepted: int
    captioned: int
    assembled: int
    warnings: int
    digest: str | None


def summarise(store: Store, version: Version) -> Summary:
    """Return the funnel of *version* from its manifests."""
    manifests = {stage: read_manifest(store, f"{version.folder}/{stage}") for stage in _COUNTED}
    crawled, downloaded, accepted, captioned, assembled = (
        _count(manifests[stage], counter) for stage, counter in _FUNNEL
    )
    published, judged = manifests["assemble"], manifests["quality"]
    return Summary(
        version=version.name,
        interval=version.interval,
        revision=version.revision,
        crawled=crawled,
        downloaded=downloaded,
        accepted=accepted,
        captioned=captioned,
        assembled=assembled,
        warnings=judged.provenance.get("notes", {}).get("warnings", 0) if judged else 0,
        digest=published.digest if published else None,
    )


_FUNNEL = (
    ("crawl", "candidates"),
    ("crawl", "success"),
    ("quality", "accepted"),
    ("rewrite", "captioned"),
    ("assemble", "samples"),
)
_COUNTED = ("crawl", "quality", "rewrite", "assemble")


def _count(manifest: Manifest | None, counter: str) -> int:
    return manifest.counters.get(counter, 0) if manifest else 0
