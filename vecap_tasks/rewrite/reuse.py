"""Captions that earlier versions paid for: found again by image, model, prompt and parameters.

What is reused is what would be written: text that depends on nothing else. So a version has the same bytes whether
its captions were found or made; of a served model that holds as far as its server answers alike twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from vecap_tasks.dataset.manifest import read_manifest
from vecap_tasks.dataset.query import connect
from vecap_tasks.dataset.schemas import CAPTIONS
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import Version, list_versions
from vecap_tasks.rewrite.attempts import Attempt, Caption
from vecap_tasks.rewrite.images import Row


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes: a model's name and revision, the prompt, the parameters as JSON; as a caption's row says it."""

    model: str
    revision: str
    prompt: str
    parameters: str


@dataclass(frozen=True, slots=True)
class Writers:
    """Who writes what; nobody need rewrite the AltText alone."""

    vec: Writer
    vecap: Writer
    alttext_rewritten: Writer | None


@dataclass(frozen=True, slots=True)
class Captions:
    """VeC by the image's sha256, VeCap by (AltText, VeC), the AltText rewritten by the AltText."""

    vec: dict[str, Caption] = field(default_factory=dict)
    vecap: dict[tuple[str, str], Caption] = field(default_factory=dict)
    alttext_rewritten: dict[str, Caption] = field(default_factory=dict)


def finished_captions(store: Store, version: Version) -> tuple[str, ...]:
    """Return where the store has the captions of the dataset's other versions whose rewriting is done."""
    places: dict[str, None] = {}
    for other in list_versions(store, version.dataset):
        if other.name != version.name:
            manifest = read_manifest(store, f"{other.folder}/rewrite")
            if manifest is not None:
                places |= dict.fromkeys(manifest.files_ending(".parquet"))
    return tuple(places)


# What a server failed to answer is asked again; so is what was never asked, which took no tokens.
_QUERY = """
    SELECT {key}, {text}, {side}_problem, {side}_tokens, {side}_variants, {side}_attempts
    FROM (
        SELECT * FROM read_parquet($files, union_by_name = true)
        UNION ALL BY NAME SELECT * FROM columns -- an earlier release's files lack some
    )
    WHERE sha256 IN (SELECT sha256 FROM wanted)
        AND {side}_model = $model AND {side}_revision = $revision AND {side}_prompt = $prompt
        AND {side}_parameters = $parameters AND {side}_attempts IS NOT NULL
        AND (({side}_tokens > 0 AND {side}_problem IS DISTINCT FROM 'server_failed')
            OR {side}_problem = 'unreadable_image')
"""


def find_captions(store: Store, files: Sequence[str], rows: Sequence[Row], writers: Writers) -> Captions:
    """Look the *rows* up in the caption *files*."""
    found = Captions()
    if not files or not rows:
        return found
    with connect(store, threads=1) as connection:
        connection.register("wanted", pa.table({"sha256": sorted({row.sha256 for row in rows})}))
        connection.register("columns", CAPTIONS.empty_table())
        paths = [store.query_path(name) for name in files]
        for sha256, *seen in _lines(connection, paths, "vec", writers.vec, "sha256", "vec"):
            found.vec[sha256] = _caption(*seen)
        by_llm = "CASE vecap_from WHEN 'llm' THEN vecap END"
        for alttext, vec, *fused in _lines(connection, paths, "vecap", writers.vecap, "alttext, vec", by_llm):
            found.vecap[alttext, vec] = _caption(*fused)
        side, writer = "alttext_rewritten", writers.alttext_rewritten
        for alttext, *rewritten in _lines(connection, paths, side, writer, "alttext", side) if writer else ():
            found.alttext_rewritten[alttext] = _caption(*rewritten)
    return found


def _lines(
    connection: duckdb.DuckDBPyConnection, paths: list[str], side: str, writer: Writer, key: str, text: str
) -> list[tuple[Any, ...]]:
    values = {name: getattr(writer, name) for name in Writer.__slots__} | {"files": paths}
    return connection.execute(_QUERY.format(side=side, key=key, text=text), values).fetchall()


def _caption(
    text: str | None, problem: str | None, tokens: int, variants: list[str | None], attempts: list[dict[str, Any]]
) -> Caption:
    return Caption(text, problem, tokens, tuple(variants), tuple(Attempt(**one) for one in attempts))
