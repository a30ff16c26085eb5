"""Captions that earlier versions paid for: found again by image, model, prompt and parameters.

What is reused is what would be written: text that depends on nothing else. So a version has the same bytes whether
its captions were found or made; of a served model that holds as far as its server answers alike twice.
"""

# ruff: noqa: S608 - the queries are put together from this file's own text and quoted paths

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import duckdb
import pyarrow as pa

from vecap_tasks.core.manifest import read_manifest
from vecap_tasks.core.schemas import CAPTIONS
from vecap_tasks.core.stage import RECEIPTS
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, open_connection, scan
from vecap_tasks.core.version import Version, list_versions
from vecap_tasks.rewrite.accepted_rows import Row
from vecap_tasks.rewrite.captioner import Attempt, Caption


@dataclass(frozen=True, slots=True)
class CaptionProvenance:
    """Who writes: a model's name and revision, the prompt, the parameters as JSON; as a caption's row says it."""

    model: str
    revision: str
    prompt: str
    parameters: str


@dataclass(frozen=True, slots=True)
class ProvenanceByText:
    """Who writes what; nobody need rewrite the AltText alone."""

    vec: CaptionProvenance
    vecap: CaptionProvenance
    alttext_rewritten: CaptionProvenance | None


@dataclass(frozen=True, slots=True)
class Captions:
    """VeC by the image's sha256, VeCap by (AltText, VeC), the AltText rewritten by the AltText."""

    vec: dict[str, Caption] = field(default_factory=dict)
    vecap: dict[tuple[str, str], Caption] = field(default_factory=dict)
    alttext_rewritten: dict[str, Caption] = field(default_factory=dict)


def finished_captions(store: Store, version: Version) -> tuple[str, ...]:
    """Return where the store has captions of the dataset's other versions, those still in the making among them."""
    places: dict[str, None] = {}
    for other in list_versions(store, version.dataset):
        if other.name == version.name:
            continue
        folder = f"{other.folder}/rewrite"
        manifest = read_manifest(store, folder)
        if manifest is not None:
            places |= dict.fromkeys(manifest.files_ending(".parquet"))
        else:  # a shard's receipt comes after its file
            receipts = [name for name in store.files(f"{folder}/{RECEIPTS}") if name.endswith(".json")]
            places |= dict.fromkeys(f"{folder}/{name.removesuffix('.json')}.parquet" for name in receipts)
    return tuple(places)


class CaptionCache:
    """Where the other versions have captions of images that a version has accepted.

    One query over all their files finds it, of each image 8 bytes and a file's number: more than *memory_limit* goes to
    disk. A shard then reads the files that have its images, and no others. The files are those of the moment of making.
    """

    def __init__(self, store: Store, files: Sequence[str], verdicts: str, memory_limit: str = "1GB") -> None:
        self._store = store
        self._files = files
        self._lock = Lock()  # a worker of several threads does several shards
        self._connection = open_connection(store, memory_limit, threads=1)
        self._connection.execute("CREATE TABLE place (image UBIGINT, file INTEGER)")
        if not files:
            return
        numbers = {store.query_path(name): number for number, name in enumerate(files)}
        self._connection.register("file", pa.table({"filename": [*numbers], "number": [*numbers.values()]}))
        self._connection.execute(f"""
            INSERT INTO place
            SELECT hash(sha256), number
            FROM {scan([*numbers], union_by_name=True)} JOIN file USING (filename)
            WHERE sha256 IN (SELECT sha256 FROM {scan([verdicts])} WHERE accepted)""")

    def files_with(self, rows: Sequence[Row]) -> list[str]:
        """Return the files that have captions of the images of *rows*; now and then one that has none, at worst."""
        with self._lock:
            self._connection.register("wanted", pa.table({"sha256": [row.sha256 for row in rows]}))
            found = self._connection.execute(
                "SELECT DISTINCT file FROM place WHERE image IN (SELECT hash(sha256) FROM wanted) ORDER BY file"
            ).fetchall()
        return [self._files[number] for (number,) in found]


# What a server failed to answer is asked again; so is what was never asked, which took no tokens.
_QUERY = """
    SELECT {key}, {text}, {side}_problem, {side}_tokens, {side}_variants, {side}_attempts
    FROM (
        SELECT * FROM {files}
        UNION ALL BY NAME SELECT * FROM columns -- an earlier release's files lack some
    )
    WHERE sha256 IN (SELECT sha256 FROM wanted)
        AND {side}_model = $model AND {side}_revision = $revision AND {side}_prompt = $prompt
        AND {side}_parameters = $parameters AND {side}_attempts IS NOT NULL
        AND (({side}_tokens > 0 AND {side}_problem IS DISTINCT FROM 'server_failed')
            OR {side}_problem = 'unreadable_image')
"""


def find_captions(
    store: Store, files: Sequence[str], rows: Sequence[Row], writers: ProvenanceByText, work: Path | None = None
) -> Captions:
    """Look the *rows* up in the caption *files*; *work* is a folder for what does not fit into memory."""
    found = Captions()
    if not files or not rows:
        return found
    with connect(store, threads=1, work=work) as connection:
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
    connection: duckdb.DuckDBPyConnection, paths: list[str], side: str, writer: CaptionProvenance, key: str, text: str
) -> list[tuple[Any, ...]]:
    values = {name: getattr(writer, name) for name in CaptionProvenance.__slots__}
    query = _QUERY.format(files=scan(paths, union_by_name=True), side=side, key=key, text=text)
    return connection.execute(query, values).fetchall()


def _caption(
    text: str | None, problem: str | None, tokens: int, variants: list[str | None], attempts: list[dict[str, Any]]
) -> Caption:
    return Caption(text, problem, tokens, tuple(variants), tuple(Attempt(**one) for one in attempts))
