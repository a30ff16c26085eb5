"""What the demo prints at its end: the rows at each stage, three samples, the arms, the digests."""

from __future__ import annotations

import re
import shutil
import textwrap
from dataclasses import dataclass

import pyarrow.parquet as pq

from vecap_tasks.config import Config
from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.summary import summarise
from vecap_tasks.dataset.version import DATASET_STAGES, Version
from vecap_tasks.errors import VecapError
from vecap_tasks.stages import load_stage

SAMPLES = 3
_COLUMNS = ["uid", "alttext", "vec", "vecap", "vecap_from"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of the assembled version."""

    uid: str
    alttext: str
    vec: str
    vecap: str
    vecap_from: str

    @property
    def fused(self) -> int:
        """Words that the VeCap has from one source alone, the fewer of the two: how much it is of both."""
        alttext, vec, vecap = (set(re.findall(r"\w+", text.lower())) for text in (self.alttext, self.vec, self.vecap))
        return min(len(vecap & alttext - vec), len(vecap & vec - alttext))


def print_result(config: Config, store: Store, version: Version) -> None:
    """Print the whole report of a published and evaluated *version*. Raises VecapError where a part is missing."""
    manifests = {name: _manifest(config, version, name) for name in (*DATASET_STAGES, "train", "evaluate")}
    _print_funnel(store, version)
    _print_samples(read_samples(store, manifests["assemble"]))
    _print_arms(store, manifests["evaluate"])
    print("\nManifest digests")
    for name, manifest in manifests.items():
        print(f"  {name:<9} {manifest.digest}")


def read_samples(store: Store, assembled: Manifest) -> list[Sample]:
    """Return the rows, those first that the language model fused and that took most from both sides."""
    found: list[Sample] = []
    for name in assembled.files_ending(".parquet"):
        with store.open(name) as stream:
            table = pq.read_table(stream, columns=_COLUMNS)
        found += [Sample(**row) for row in table.to_pylist()]
    return sorted(found, key=lambda sample: (sample.vecap_from != "llm", -min(sample.fused, 3), sample.uid))


def _manifest(config: Config, version: Version, name: str) -> Manifest:
    manifest = load_stage(name, config, version).manifest()
    if manifest is None:
        raise VecapError(f"version {version.name} has no {name}; run the demo again, it does what is missing")
    return manifest


def _print_funnel(store: Store, version: Version) -> None:
    rows = summarise(store, version)
    print(f"\nVersion {version.dataset}/{version.name}: rows at each stage")
    for name in ("crawled", "downloaded", "accepted", "captioned", "assembled"):
        count = getattr(rows, name)
        print(f"  {name:<11}{count:>7,}" + (f"{count / rows.crawled:>8.1%}" if rows.crawled else ""))


def _print_samples(samples: list[Sample]) -> None:
    print("\nThree samples")
    width = max(20, (min(shutil.get_terminal_size((120, 24)).columns, 150) - 8) // 3)
    header = ("AltText", "VeC", "VeCap")
    print("  " + "  ".join(name.ljust(width) for name in header).rstrip())
    for sample in samples[:SAMPLES]:
        cells = [textwrap.wrap(text, width) or ["-"] for text in (sample.alttext, sample.vec, sample.vecap)]
        print("  " + "  ".join(["─" * width] * 3))
        for line in range(max(len(cell) for cell in cells)):
            words = [cell[line] if line < len(cell) else "" for cell in cells]
            print("  " + "  ".join(word.ljust(width) for word in words).rstrip())


def _print_arms(store: Store, evaluated: Manifest) -> None:
    from vecap_tasks.evaluate.report import format_table, read_results

    print()
    print(format_table(read_results(store, evaluated)))
