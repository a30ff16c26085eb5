"""Reuses captions of earlier versions with the same image, model, prompt and parameters.

A reused caption equals a newly generated one, so a version has the same bytes either way. For a served model this
holds only if its server is deterministic. If only the screening differs, the stored answers are screened again.
"""

# ruff: noqa: S608 - queries contain only this file's text and quoted paths

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import duckdb
import pyarrow as pa

from vecap_tasks.core.intermediate import receipted_files
from vecap_tasks.core.manifest import RECEIPTS, ShardResult, read_manifest
from vecap_tasks.core.schemas import CAPTIONS
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, open_connection, scan, translate_errors
from vecap_tasks.core.verify import RecordedFile, check_recorded, recorded_files
from vecap_tasks.core.version import Version, list_versions
from vecap_tasks.errors import CorruptError
from vecap_tasks.rewrite.accepted_rows import Row
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, Sampling, failed
from vecap_tasks.rewrite.batches import text_key
from vecap_tasks.rewrite.captioner import Attempt, Caption
from vecap_tasks.rewrite.screen import STRIPPED

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CaptionProvenance:
    """Model name and revision, prompt, and parameters as JSON; columns of a caption row."""

    model: str
    revision: str
    prompt: str
    parameters: str


@dataclass(frozen=True, slots=True)
class ProvenanceByText:
    """The provenance of each text; `alttext_rewritten` is None if the AltText is not rewritten."""

    vec: CaptionProvenance
    vecap: CaptionProvenance
    alttext_rewritten: CaptionProvenance | None


@dataclass(frozen=True, slots=True)
class Captions:
    """VeC by image sha256, VeCap by (AltText, VeC), rewritten AltText by AltText."""

    vec: dict[str, Caption] = field(default_factory=dict)
    vecap: dict[tuple[str, str], Caption] = field(default_factory=dict)
    alttext_rewritten: dict[str, Caption] = field(default_factory=dict)


def finished_captions(store: Store, version: Version) -> tuple[RecordedFile, ...]:
    """Return the caption files of the dataset's other versions, including unfinished ones."""
    found: dict[str, RecordedFile] = {}
    for candidate in list_versions(store, version.dataset):
        if candidate.name == version.name:
            continue
        folder = f"{candidate.folder}/rewrite"
        manifest = read_manifest(store, folder)
        if manifest is not None:
            remedy = f"restore it, or delete {manifest.location} to generate its captions again"
            files = recorded_files(store, manifest, manifest.files_ending(".parquet"), remedy)
        else:  # a receipt is written after its shard file
            names = [f"{folder}/{RECEIPTS}/{file}" for file in store.files(f"{folder}/{RECEIPTS}")]
            receipts = (_read_receipt(store, name) for name in names if name.endswith(".json"))
            files = receipted_files(store, folder, "rewrite", [receipt for receipt in receipts if receipt is not None])
        found |= {file.name: file for file in files}
    return tuple(found.values())


def _read_receipt(store: Store, name: str) -> ShardResult | None:
    """Return the receipt of another version's shard, None if it is gone or corrupt: its captions are optional."""
    try:
        return ShardResult.from_json(store.read(name), name)
    except FileNotFoundError:  # the version was deleted, or starts again
        return None
    except CorruptError as error:
        log.warning("the captions of a shard are not reused: %s", error)
        return None


class CaptionCache:
    """Finds the caption files that contain the accepted images of a version.

    One query over all files builds an index of 8 bytes per image plus a file number, which spills to disk above
    *memory_limit*. The list of files is fixed at construction.
    """

    def __init__(
        self,
        store: Store,
        files: Sequence[RecordedFile],
        verdicts: Sequence[RecordedFile],
        memory_limit: str = "1GB",
    ) -> None:
        self._store = store
        self._files = files
        self._checked: set[int] = set()
        self._lock = Lock()  # worker threads process several shards at once
        self._connection = open_connection(store, memory_limit, threads=1)
        self._connection.execute("CREATE TABLE location (image UBIGINT, file INTEGER)")
        if not files or not verdicts:
            return
        check_recorded(verdicts)
        accepted = scan([store.query_path(file.name) for file in verdicts])
        numbers = {store.query_path(file.name): number for number, file in enumerate(files)}
        self._connection.register("file", pa.table({"filename": [*numbers], "number": [*numbers.values()]}))
        with translate_errors():
            self._connection.execute(f"""
                INSERT INTO location
                SELECT hash(sha256), number
                FROM {scan([*numbers], union_by_name=True)} JOIN file USING (filename)
                WHERE sha256 IN (SELECT sha256 FROM {accepted} WHERE accepted)""")

    def files_with(self, rows: Sequence[Row]) -> list[str]:
        """Return the files with captions of the images of *rows*; a hash collision can add a file.

        Compares each file with its record once. Raises CorruptError if one differs.
        """
        with self._lock:
            self._connection.register("wanted", pa.table({"sha256": [row.sha256 for row in rows]}))
            found = self._connection.execute(
                "SELECT DISTINCT file FROM location WHERE image IN (SELECT hash(sha256) FROM wanted) ORDER BY file"
            ).fetchall()
            numbers = [number for (number,) in found]
            check_recorded([self._files[number] for number in numbers if number not in self._checked])
            self._checked.update(numbers)
        return [self._files[number].name for number in numbers]


# Excludes failed server requests and texts that were never requested (0 tokens): both are requested again.
_QUERY = """
    SELECT {key}, {text}, {prefix}_problem, {prefix}_tokens, {prefix}_variants, {prefix}_attempts
    FROM (
        SELECT * FROM {files}
        UNION ALL BY NAME SELECT * FROM columns -- files of earlier releases lack some columns
    )
    WHERE sha256 IN (SELECT sha256 FROM wanted)
        AND {prefix}_model = $model AND {prefix}_revision = $revision AND {prefix}_prompt = $prompt
        AND {prefix}_parameters = $parameters AND {prefix}_attempts IS NOT NULL
        AND (({prefix}_tokens > 0 AND {prefix}_problem IS DISTINCT FROM 'server_failed')
            OR {prefix}_problem = 'unreadable_image')
"""


def find_captions(
    store: Store, files: Sequence[str], rows: Sequence[Row], provenance: ProvenanceByText, work: Path | None = None
) -> Captions:
    """Find captions of *rows* in *files*; *work* is a folder for spilled data."""
    found = Captions()
    if not files or not rows:
        return found
    with connect(store, threads=1, work=work) as connection:
        connection.register("wanted", pa.table({"sha256": sorted({row.sha256 for row in rows})}))
        connection.register("columns", CAPTIONS.empty_table())
        paths = [store.query_path(name) for name in files]
        for sha256, *values in _lines(connection, paths, "vec", provenance.vec, "sha256", "vec"):
            found.vec[sha256] = _caption(*values)
        by_llm = "CASE vecap_from WHEN 'llm' THEN vecap END"
        for alttext, vec, *values in _lines(connection, paths, "vecap", provenance.vecap, "alttext, vec", by_llm):
            found.vecap[alttext, vec] = _caption(*values)
        prefix, rewriter = "alttext_rewritten", provenance.alttext_rewritten
        for alttext, *values in _lines(connection, paths, prefix, rewriter, "alttext", prefix) if rewriter else ():
            found.alttext_rewritten[alttext] = _caption(*values)
    return found


_UNREADABLE = "unreadable_image"  # no model is needed to find this again

# Rows whose captions differ from the wanted ones in the screening at most.
_ANSWERS = """
    SELECT {key}, {prefix}_variants, {prefix}_attempts
    FROM (SELECT * FROM {files} UNION ALL BY NAME SELECT * FROM columns)
    WHERE sha256 IN (SELECT sha256 FROM wanted)
        AND {prefix}_model = $model AND {prefix}_revision = $revision AND {prefix}_prompt = $prompt
        AND {prefix}_parameters IN (SELECT unnest($parameters)) AND {prefix}_attempts IS NOT NULL
"""


def find_answers(
    store: Store, files: Sequence[str], rows: Sequence[Row], provenance: ProvenanceByText, work: Path | None = None
) -> dict[str, GeneratedText]:
    """Find the answers of *rows* in *files* that other screening rules screened, by `text_key`.

    Release 0.1.0 did not store answers. Of its captions, the accepted ones are found.
    """
    found: dict[str, GeneratedText] = {}
    if not files or not rows:
        return found
    subjects = {"vec": ("vlm", "sha256"), "vecap": ("llm", "alttext || chr(10) || vec")}
    subjects["alttext_rewritten"] = ("alttext", "alttext || chr(10)")
    with connect(store, threads=1, work=work) as connection:
        connection.register("wanted", pa.table({"sha256": sorted({row.sha256 for row in rows})}))
        connection.register("columns", CAPTIONS.empty_table())
        scanned = scan([store.query_path(name) for name in files], union_by_name=True)
        for prefix, (role, key) in subjects.items():
            wanted = getattr(provenance, prefix)
            parameters = _screened_otherwise(connection, scanned, prefix, wanted) if wanted else []
            if not parameters:
                continue
            query = _ANSWERS.format(files=scanned, prefix=prefix, key=key)
            values = {name: getattr(wanted, name) for name in CaptionProvenance.__slots__} | {"parameters": parameters}
            for subject, variants, attempts in connection.execute(query, values).fetchall():
                for attempt in attempts if subject else ():
                    answer = _answer(attempt, variants)
                    if answer is not None:
                        sampling = Sampling(attempt["variant"], attempt["temperature"], attempt["seed"])
                        found[text_key(role, subject, sampling)] = answer
    return found


def _answer(attempt: Mapping[str, Any], variants: Sequence[str | None]) -> GeneratedText | None:
    """Return what the model answered, None if it is not stored."""
    if attempt["problem"] == _UNREADABLE:
        return failed(_UNREADABLE)
    text, ended = attempt["text"], attempt["ended"]
    if text is None and attempt["problem"] in (None, STRIPPED):
        text, ended = variants[attempt["variant"]], True
    return None if text is None else GeneratedText(text, attempt["tokens"], ended)


def _screened_otherwise(
    connection: duckdb.DuckDBPyConnection, scanned: str, prefix: str, wanted: CaptionProvenance
) -> list[str]:
    """Return the parameters in the files that differ from the *wanted* ones in the screening only."""
    query = f"""
        SELECT DISTINCT {prefix}_parameters
        FROM (SELECT * FROM {scanned} UNION ALL BY NAME SELECT * FROM columns)
        WHERE {prefix}_parameters != $parameters"""
    stored = [text for (text,) in connection.execute(query, {"parameters": wanted.parameters}).fetchall()]
    return sorted(text for text in stored if _unscreened(text) == _unscreened(wanted.parameters))


def _unscreened(parameters: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(parameters).items() if name != "screening"}


def _lines(
    connection: duckdb.DuckDBPyConnection,
    paths: list[str],
    prefix: str,
    provenance: CaptionProvenance,
    key: str,
    text: str,
) -> list[tuple[Any, ...]]:
    values = {name: getattr(provenance, name) for name in CaptionProvenance.__slots__}
    query = _QUERY.format(files=scan(paths, union_by_name=True), prefix=prefix, key=key, text=text)
    return connection.execute(query, values).fetchall()


def _caption(
    text: str | None, problem: str | None, tokens: int, variants: list[str | None], attempts: list[dict[str, Any]]
) -> Caption:
    return Caption(text, problem, tokens, tuple(variants), tuple(Attempt(**attempt) for attempt in attempts))
