"""Reuses texts of other versions: a VeC of the same stored image, a VeCap of the same AltText and VeC.

Model, prompt and sampling must be equal, too. Revisions of the code and the settings of the crawl are not compared. If
only the screening differs, the stored answers are screened again.

A reused text equals a newly generated one, so a version has the same bytes either way. For a served model this holds
only if its server is deterministic; for a text that was sampled by release 0.1.0, it holds except for the seed.
"""

# ruff: noqa: S608 - queries contain only this file's text and quoted paths

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import duckdb
import pyarrow as pa

from vecap_tasks.core.intermediate import Index, IndexedUploads, fetch, receipted_files
from vecap_tasks.core.manifest import RECEIPTS, ShardResult, read_manifest
from vecap_tasks.core.schemas import CAPTIONS, CRAWL, VERDICTS
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, scan, view_files
from vecap_tasks.core.verify import RecordedFile, check_recorded, recorded_files
from vecap_tasks.core.version import Version, list_versions
from vecap_tasks.errors import CorruptError
from vecap_tasks.rewrite.accepted_rows import Row, hash_images
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, failed, sampling_of
from vecap_tasks.rewrite.batches import text_key
from vecap_tasks.rewrite.captioner import Attempt, Caption
from vecap_tasks.rewrite.prompt import Prompt
from vecap_tasks.rewrite.screen import STRIPPED

log = logging.getLogger(__name__)

_MAX_THREADS = 4  # of the search for files; each needs a part of the memory limit
_FILES_AT_ONCE = 500  # DuckDB holds 0.1 MB for each file of a query


@dataclass(frozen=True, slots=True)
class CaptionProvenance:
    """What made a text: model name and revision, prompt, and as JSON the parameters of sampling and screening."""

    model: str
    revision: str
    prompt: Prompt
    parameters: str

    def columns(self) -> dict[str, str]:
        """Return the values of a caption row, by the last word of the column."""
        names = {"model": self.model, "revision": self.revision, "prompt": self.prompt.name}
        return names | {"parameters": self.parameters}


@dataclass(frozen=True, slots=True)
class ProvenanceByText:
    """The provenance of each text; `alttext_rewritten` is None if the AltText is not rewritten."""

    vec: CaptionProvenance
    vecap: CaptionProvenance
    alttext_rewritten: CaptionProvenance | None


@dataclass(frozen=True, slots=True)
class Captions:
    """VeC by the sha256 of the stored image, VeCap by (AltText, VeC), rewritten AltText by AltText."""

    vec: dict[str, Caption] = field(default_factory=dict)
    vecap: dict[tuple[str, str], Caption] = field(default_factory=dict)
    alttext_rewritten: dict[str, Caption] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredTexts:
    """Texts of other versions: captions, and answers by `text_key` that other screening rules screened."""

    captions: Captions = field(default_factory=Captions)
    answers: dict[str, GeneratedText] = field(default_factory=dict)


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


def locate_captions(
    store: Store,
    folder: str,
    files: Sequence[RecordedFile],
    verdicts: Mapping[str, RecordedFile],
    tables: Mapping[str, RecordedFile],
    work: Path,
    memory_limit: str = "1GB",
) -> None:
    """Publish for each crawl shard the list of those *files* with captions that have its images, and an index of them.

    `{shard}.json` in *folder* has the records of the files. *verdicts* and *tables* are by crawl shard; an image is
    found by the sha256 of the stored image or of the download. Data above *memory_limit* spills to *work*. A hash
    collision can add a file. Raises CorruptError if a file differs from its record.
    """
    with IndexedUploads(store, folder) as uploads:
        if files and verdicts:
            check_recorded([*verdicts.values(), *tables.values()])
            threads = min(_MAX_THREADS, len(os.sched_getaffinity(0)))
            with connect(store, memory_limit, threads, work) as connection:
                try:
                    for shard, numbers in _locations(connection, store, files, verdicts, tables):
                        path = work / f"{shard}.json"
                        path.write_text(json.dumps([_record(files[number]) for number in numbers]), encoding="utf-8")
                        uploads.add(path)
                except duckdb.Error:
                    check_recorded(files)
                    raise
        uploads.finish({})


def _locations(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    files: Sequence[RecordedFile],
    verdicts: Mapping[str, RecordedFile],
    tables: Mapping[str, RecordedFile],
) -> Iterator[tuple[str, list[int]]]:
    """Yield the crawl shards with images in *files*, and the positions of these files."""
    owner = {store.query_path(named[shard].name): shard for named in (verdicts, tables) for shard in named}
    numbers = {store.query_path(file.name): number for number, file in enumerate(files)}
    connection.register("owner", pa.table({"filename": [*owner], "shard": [*owner.values()]}))
    connection.register("file", pa.table({"filename": [*numbers], "number": [*numbers.values()]}))
    connection.register("columns", CAPTIONS.empty_table().select(["sha256", "jpeg_sha256"]))
    view_files(connection, "verdicts", [store.query_path(file.name) for file in verdicts.values()], VERDICTS)
    view_files(connection, "crawl", [store.query_path(file.name) for file in tables.values()], CRAWL)
    connection.execute("""
        CREATE TEMP TABLE image AS SELECT DISTINCT hash(sha256) AS image, shard FROM (
            SELECT sha256, filename FROM verdicts WHERE accepted
            UNION ALL SELECT jpeg_sha256, filename FROM crawl WHERE jpeg_sha256 IS NOT NULL
        ) JOIN owner USING (filename)""")
    connection.execute("CREATE TEMP TABLE caption (image UBIGINT, number INTEGER)")
    for start in range(0, len(files), _FILES_AT_ONCE):
        connection.execute(f"""
            INSERT INTO caption SELECT DISTINCT unnest([hash(sha256), hash(jpeg_sha256)]), number
            FROM ({_all_columns([*numbers][start : start + _FILES_AT_ONCE])}) JOIN file USING (filename)""")
    found = connection.execute(
        "SELECT DISTINCT shard, number FROM image JOIN caption USING (image) ORDER BY shard, number"
    )
    for shard, pairs in groupby(iter(found.fetchone, None), key=lambda pair: pair[0]):
        yield shard, [number for _, number in pairs]


def _all_columns(paths: Sequence[str]) -> str:
    """Return SQL for the rows of the caption files *paths*; files of earlier releases lack some of `columns`."""
    return f"SELECT * FROM {scan(paths, union_by_name=True)} UNION ALL BY NAME SELECT * FROM columns"


def _record(file: RecordedFile) -> dict[str, Any]:
    return {"name": file.name, "bytes": file.bytes, "sha256": file.sha256, "remedy": file.remedy}


def located_files(index: Index, shards: Iterable[str]) -> list[RecordedFile]:
    """Return the files of an *index* that `locate_captions` wrote with images of the crawl *shards*, by name.

    Raises CorruptError if a list differs from its record.
    """
    lists = [index.files[name] for shard in shards if (name := f"{shard}.json") in index.files]
    found = {entry["name"]: RecordedFile(file.store, **entry) for file in lists for entry in json.loads(file.read())}
    return [found[name] for name in sorted(found)]


# The texts of a shard

_ROLES = {"vec": "vlm", "vecap": "llm", "alttext_rewritten": "alttext"}
_INPUTS = {"vec": "jpeg_sha256", "vecap": "alttext, vec", "alttext_rewritten": "alttext"}
_TEXTS = {"vec": "vec", "vecap": "CASE vecap_from WHEN 'llm' THEN vecap END", "alttext_rewritten": "alttext_rewritten"}
_UNREADABLE = "unreadable_image"  # no model is needed to find this again
# Parameters of release 0.1.0 that are no longer compared: stored images are compared themselves.
_IGNORED = ("image", "stage")

_LOAD = """
    CREATE TEMP TABLE captions AS SELECT *, jpeg_sha256 IS NULL AS is_old
    FROM ({files})
    WHERE sha256 IN (SELECT sha256 FROM wanted) OR jpeg_sha256 IN (SELECT jpeg_sha256 FROM wanted)"""
# Failed server requests and texts that were never requested (0 tokens) are not finished: both are requested again.
_QUERY = """
    SELECT [{inputs}], is_old, {prefix}_parameters,
        ({prefix}_tokens > 0 AND {prefix}_problem IS DISTINCT FROM 'server_failed')
            OR {prefix}_problem IS NOT DISTINCT FROM 'unreadable_image',
        {text}, {prefix}_problem, {prefix}_tokens, {prefix}_variants, {prefix}_attempts
    FROM captions WHERE {where} AND {prefix}_attempts IS NOT NULL"""
_WHERE = """
    {prefix}_model = $model AND {prefix}_revision = $revision AND {prefix}_prompt = $prompt
        AND list_contains($parameters, {prefix}_parameters)"""


def find_texts(
    store: Store, files: Sequence[str], rows: Sequence[Row], provenance: ProvenanceByText, work: Path
) -> StoredTexts:
    """Find texts for *rows* in the caption *files* of other versions; *work* is a folder for copies and spilled data.

    The texts of an LLM are looked for in the rows of the same images, stored or downloaded. Captions of release 0.1.0
    have no hash of the stored image: if the download is that of one of *rows*, the image in the crawl of their version
    is hashed. Of that release's answers, the accepted ones are stored. Raises CorruptError if a file of that crawl
    differs from its record.
    """
    found = StoredTexts()
    if not files or not rows:
        return found
    names = {store.query_path(name): name for name in files}
    images = {row.jpeg_sha256 for row in rows}
    with connect(store, threads=1, work=work) as connection:
        wanted = {"sha256": [row.sha256 for row in rows], "jpeg_sha256": [row.jpeg_sha256 for row in rows]}
        connection.register("wanted", pa.table(wanted))
        connection.register("columns", CAPTIONS.empty_table())
        connection.execute(_LOAD.format(files=_all_columns([*names])))
        for prefix in _ROLES:
            maker: CaptionProvenance | None = getattr(provenance, prefix)
            if maker is None:
                continue
            same, screened_otherwise = _stored_parameters(connection, prefix, maker)
            values = maker.columns() | {"parameters": [*same, *screened_otherwise]}
            if prefix == "vec":
                _hash_old_images(connection, store, names, values, work)
            captions: dict[Any, Caption] = getattr(found.captions, prefix)
            where = _WHERE.format(prefix=prefix)
            query = _QUERY.format(prefix=prefix, inputs=_INPUTS[prefix], text=_TEXTS[prefix], where=where)
            for inputs, is_old, parameters, is_finished, *caption in connection.execute(query, values).fetchall():
                if prefix == "vec":
                    is_wanted = inputs[0] in images
                else:
                    is_wanted = None not in inputs and (not is_old or maker.prompt.has_old_request(*inputs))
                if is_wanted and parameters not in same:
                    found.answers.update(_answers(prefix, inputs, maker.prompt, *caption[-2:]))
                elif is_wanted and is_finished:
                    captions[inputs[0] if len(inputs) == 1 else tuple(inputs)] = _caption(*caption)
    return found


def _stored_parameters(
    connection: duckdb.DuckDBPyConnection, prefix: str, maker: CaptionProvenance
) -> tuple[list[str], list[str]]:
    """Return the parameters in the table `captions` that equal those of *maker*, and those with other screening."""
    sampling, screening = _split(maker.parameters)
    query = f"SELECT DISTINCT {prefix}_parameters AS text FROM captions WHERE text IS NOT NULL ORDER BY text"
    stored = {text: _split(text) for (text,) in connection.execute(query).fetchall()}
    equal = [text for text, (values, _) in stored.items() if values == sampling]
    same = [text for text in equal if stored[text][1] == screening]
    return same, [text for text in equal if text not in same]


def _split(parameters: str) -> tuple[dict[str, Any], Any]:
    """Return the parameters of sampling, and of screening."""
    values = json.loads(parameters)
    screening = values.pop("screening", None)
    return {name: value for name, value in values.items() if name not in _IGNORED}, screening


def _hash_old_images(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    names: Mapping[str, str],
    values: Mapping[str, Any],
    work: Path,
) -> None:
    """Set the missing `jpeg_sha256` in the table `captions` in the rows whose VeC has the provenance *values*.

    *names* maps the paths in the column `filename` to names in the store.
    """
    query = f"SELECT filename, list(key) FROM captions WHERE is_old AND {_WHERE.format(prefix='vec')} GROUP BY ALL"
    hashed = [
        (path, key, sha256)
        for path, keys in connection.execute(query, values).fetchall()
        for key, sha256 in _image_hashes(store, names[path], keys, work).items()
    ]
    columns = zip(*hashed, strict=True) if hashed else ([], [], [])
    texts = [pa.array(column, pa.string()) for column in columns]
    connection.register("hashed", pa.table(texts, names=["filename", "key", "hash"]))
    connection.execute("""
        UPDATE captions SET jpeg_sha256 = hash FROM hashed
        WHERE captions.filename = hashed.filename AND captions.key = hashed.key""")


def _image_hashes(store: Store, captions: str, keys: Sequence[str], work: Path) -> dict[str, str]:
    """Return the sha256 of the stored image of each of *keys*, rows of the file *captions*, by its version's crawl."""
    folder, version = PurePosixPath(captions).parent, PurePosixPath(captions).parents[1]
    manifest = read_manifest(store, f"{version}/crawl")
    if manifest is None:
        log.warning("the VeCs in %s are not reused: the crawl of %s is missing", captions, version.name)
        return {}
    tables = {PurePosixPath(name).stem: name for name in manifest.files_ending(".parquet")}
    shards = sorted({key[:size] for key in keys for size in {*map(len, tables)}} & tables.keys())
    remedy = f"restore it, or delete {folder} to generate its captions again"
    files = {file.name: file for file in recorded_files(store, manifest, None, remedy)}
    copies = fetch([files[tables[shard]] for shard in shards], work / "old_crawls" / version.name)
    tars = {
        copy: str(PurePosixPath(tables[shard]).with_suffix(".tar")) for copy, shard in zip(copies, shards, strict=True)
    }
    with connect(store, threads=1, work=work) as connection:
        view_files(connection, "crawl", copies, CRAWL)
        query = "SELECT filename, key, jpeg_sha256 FROM crawl WHERE list_contains($1, key) ORDER BY key"
        rows = connection.execute(query, [keys]).fetchall()
    hashes = {key: sha256 for _, key, sha256 in rows if sha256 is not None}
    images = [(tars[copy], key) for copy, key, sha256 in rows if sha256 is None]
    return hashes | {
        key: sha256 for (_, key), sha256 in hash_images(lambda tar, keys: files[tar].images(keys), images).items()
    }


def _answers(
    prefix: str,
    inputs: Sequence[str],
    prompt: Prompt,
    variants: Sequence[str | None],
    attempts: Sequence[dict[str, Any]],
) -> Iterator[tuple[str, GeneratedText]]:
    """Yield the stored answers to the requests with *inputs*, by `text_key`."""
    subject = inputs[0] if prefix == "vec" else "\n".join([*inputs, ""][:2])
    numbers: Counter[int] = Counter()
    for attempt in attempts:
        variant = attempt["variant"]
        sampling = sampling_of(subject, prompt.digest, variant, numbers[variant], attempt["temperature"])
        numbers[variant] += 1
        answer = _answer(attempt, variants)
        if answer is not None:
            is_requested = attempt["seed"] == sampling.seed
            yield (
                text_key(_ROLES[prefix], subject, sampling),
                answer if is_requested else replace(answer, seed=attempt["seed"]),
            )


def _answer(attempt: Mapping[str, Any], variants: Sequence[str | None]) -> GeneratedText | None:
    """Return what the model answered, None if it is not stored."""
    if attempt["problem"] == _UNREADABLE:
        return failed(_UNREADABLE)
    text, ended = attempt["text"], attempt["ended"]
    if text is None and attempt["problem"] in (None, STRIPPED):
        text, ended = variants[attempt["variant"]], True
    return None if text is None else GeneratedText(text, attempt["tokens"], ended)


def _caption(
    text: str | None, problem: str | None, tokens: int, variants: list[str | None], attempts: list[dict[str, Any]]
) -> Caption:
    return Caption(text, problem, tokens, tuple(variants), tuple(Attempt(**attempt) for attempt in attempts))
