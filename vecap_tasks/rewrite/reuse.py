"""Captions that earlier versions paid for: found again by image, model, prompt and parameters.

What is reused is what would be written: greedy text that depends on nothing else. So a version has the same bytes
whether its captions were found or made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from vecap_tasks.dataset.manifest import read_manifest
from vecap_tasks.dataset.query import connect
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import Version, list_versions
from vecap_tasks.rewrite.images import Row


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes: a model's name and revision, the prompt, the parameters as JSON; as a caption's row says it."""

    model: str
    revision: str
    prompt: str
    parameters: str


@dataclass(frozen=True, slots=True)
class Caption:
    """A text that passed screening, or None and the problem that was found; `tokens` is what it took to write."""

    text: str | None
    problem: str | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Found:
    """Captions of other versions: VeC by the image's sha256, VeCap by (AltText, VeC)."""

    vec: dict[str, Caption] = field(default_factory=dict)
    vecap: dict[tuple[str, str], Caption] = field(default_factory=dict)


def finished_captions(store: Store, version: Version) -> tuple[str, ...]:
    """Return where the store has the captions of the dataset's other versions whose rewriting is done."""
    places: dict[str, None] = {}
    for other in list_versions(store, version.dataset):
        if other.name != version.name:
            manifest = read_manifest(store, f"{other.folder}/rewrite")
            if manifest is not None:
                places |= dict.fromkeys(manifest.files_ending(".parquet"))
    return tuple(places)


_QUERY = """
    SELECT vec_model = $vec_model AND vec_revision = $vec_revision AND vec_prompt = $vec_prompt
               AND vec_parameters = $vec_parameters AS same_vec,
           sha256, vec, vec_problem, vec_tokens,
           vecap_model = $vecap_model AND vecap_revision = $vecap_revision AND vecap_prompt = $vecap_prompt
               AND vecap_parameters = $vecap_parameters AND vecap_tokens > 0 AS same_vecap,
           alttext, vecap_from, vecap, vecap_problem, vecap_tokens
    FROM read_parquet($files)
    WHERE sha256 IN (SELECT sha256 FROM wanted) AND (same_vec OR same_vecap)
"""


def find_captions(store: Store, files: Sequence[str], rows: Sequence[Row], vec: Writer, vecap: Writer) -> Found:
    """Look the *rows* up in the caption *files* with one query."""
    found = Found()
    if not files or not rows:
        return found
    wanted = pa.table({"sha256": sorted({row.sha256 for row in rows})})
    values = {f"vec_{name}": getattr(vec, name) for name in Writer.__slots__}
    values |= {f"vecap_{name}": getattr(vecap, name) for name in Writer.__slots__}
    with connect(store, threads=1) as connection:
        connection.register("wanted", wanted)
        paths = [store.query_path(name) for name in files]
        for line in connection.execute(_QUERY, values | {"files": paths}).fetchall():
            same_vec, sha256, *seen, same_vecap, alttext, origin, text, problem, tokens = line
            if same_vec:
                found.vec[sha256] = Caption(*seen)
            if same_vecap:
                found.vecap[alttext, seen[0]] = Caption(text if origin == "llm" else None, problem, tokens)
    return found
