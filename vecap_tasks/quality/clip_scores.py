"""CLIP similarity of image and AltText by shard, each pair scored once across versions, and embeddings of images."""

# ruff: noqa: S608 - queries contain only this package's rules and quoted literals

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from vecap_tasks.config import ClipScore, Config
from vecap_tasks.core.manifest import digest, read_manifest
from vecap_tasks.core.models import Checkpoint, digest_checkpoint
from vecap_tasks.core.schemas import CRAWL, SCORES
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, create_view, view_files, write_rows
from vecap_tasks.core.verify import RecordedFile, recorded_files
from vecap_tasks.core.version import Version, list_versions
from vecap_tasks.errors import PermanentError
from vecap_tasks.quality.alttext_rules import cleaned, literal

if TYPE_CHECKING:
    from vecap_tasks.quality.clip_model import Scorer

FOLDER = "scores"
_OLD_FILE = "scores.parquet"  # of earlier releases
_MODEL_FILES = ("*.safetensors", "*.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embeddings of images, float16 of unit length, and their rows: a table with the columns key, uid and sha256."""

    rows: pa.Table
    vectors: list[bytes]


@dataclass(frozen=True, slots=True)
class Scored:
    """The number of scores, how many of them were reused, and the embeddings, if semantic duplicates are rejected."""

    rows: int
    reused: int
    embedded: Embedded | None = None


def find_clip(config: Config, settings: ClipScore) -> Checkpoint:
    """Return the checkpoint that *settings* name. Raises VecapError if its folder or files are missing."""
    folder = Path(config.resolve(settings.model))
    if not folder.is_dir():
        raise PermanentError(f"quality.clip.model: folder {folder} does not exist; correct the path")
    files = {file for pattern in _MODEL_FILES for file in folder.glob(pattern)}
    if folder / "config.json" not in files or not any(file.suffix == ".safetensors" for file in files):
        raise PermanentError(
            f"quality.clip.model: {folder} lacks config.json or *.safetensors; set the folder of a CLIPModel"
        )
    return digest_checkpoint(settings.model, folder, files)


def scored_by(clip: Checkpoint, settings: ClipScore) -> str:
    """Return a digest (16 hex digits) of everything that determines a score apart from image and text."""
    return digest({"model": clip.digest, "batch_size": settings.batch_size, "cleaning": cleaned("caption")})[:16]


def earlier_scores(store: Store, version: Version) -> list[RecordedFile]:
    """Return the score files of the dataset's other versions."""
    found: dict[str, RecordedFile] = {}
    for other in list_versions(store, version.dataset):
        manifest = read_manifest(store, f"{other.folder}/quality") if other.name != version.name else None
        if manifest is not None:
            paths = [entry.path for entry in manifest.files]
            names = [manifest.file(path) for path in paths if path.startswith(f"{FOLDER}/") or path == _OLD_FILE]
            files = recorded_files(store, manifest, names, f"restore it, or delete {manifest.location}")
            found |= {file.name: file for file in files}
    return list(found.values())


def write_scores(
    store: Store,
    table: str,
    stored: Callable[[Mapping[str, str | None]], Iterator[tuple[str, bytes]]],
    earlier: Sequence[str],
    clip: Checkpoint,
    settings: ClipScore,
    path: Path,
) -> Scored:
    """Score a shard of the crawl and write SCORES to *path*. *table* is a local path to its table.

    *stored* yields the wanted images of the shard, given their hashes by key. Scores in *earlier* files are reused. If
    semantic duplicates are rejected, all downloaded images are embedded. Raises CorruptError if an image is missing or
    corrupt.
    """
    by = scored_by(clip, settings)
    with connect(store, threads=1, work=path.parent) as connection:
        view_files(connection, "crawl", [table], CRAWL)
        create_view(connection, store, "earlier", earlier, SCORES)
        connection.execute(f"""
            CREATE TEMP TABLE wanted AS SELECT key, uid, sha256, jpeg_sha256, text, md5(text) AS text_md5
            FROM (SELECT *, {cleaned("caption")} AS text FROM crawl WHERE status = 'success') WHERE text != ''""")
        rows: pa.Table = connection.sql(f"""
            SELECT wanted.*, found.similarity FROM wanted LEFT JOIN (
                SELECT sha256, text_md5, max(similarity) AS similarity FROM earlier
                WHERE scored_by = {literal(by)} AND sha256 IN (SELECT sha256 FROM wanted) GROUP BY ALL
            ) AS found USING (sha256, text_md5) ORDER BY key""").to_arrow_table()
        downloads: pa.Table = connection.sql(
            "SELECT key, uid, sha256, jpeg_sha256 FROM crawl WHERE status = 'success' ORDER BY key"
        ).to_arrow_table()
    known = dict(zip(rows["key"].to_pylist(), rows["similarity"].to_pylist(), strict=True))
    texts = dict(zip(rows["key"].to_pylist(), rows["text"].to_pylist(), strict=True))
    missing = {key: text for key, text in texts.items() if known[key] is None}
    hashes = dict(zip(downloads["key"].to_pylist(), downloads["jpeg_sha256"].to_pylist(), strict=True))
    embeds = settings.duplicate_similarity is not None
    wanted = {key: value for key, value in hashes.items() if embeds or key in missing}
    vectors: dict[str, bytes] = {}
    if wanted:
        from vecap_tasks.quality.clip_model import load_scorer

        scorer = load_scorer(clip.folder, clip.digest, settings.batch_size, settings.device, settings.threads)
        known |= _score_images(stored(wanted), missing, scorer, vectors if embeds else None)
    similarity = pa.array([known[key] for key in texts], pa.float64())
    scored = rows.set_column(rows.schema.get_field_index("similarity"), "similarity", similarity)
    scored = scored.append_column("scored_by", pa.array([by] * len(scored), pa.string()))
    count, reused = write_rows(scored.to_batches(), SCORES, path), len(texts) - len(missing)
    if not embeds:
        return Scored(count, reused)
    embedded = downloads.filter(pc.is_in(downloads["key"], pa.array(vectors, pa.string())))
    return Scored(count, reused, Embedded(embedded, [vectors[key] for key in embedded["key"].to_pylist()]))


def _score_images(
    stored: Iterator[tuple[str, bytes]],
    texts: Mapping[str, str],
    scorer: Scorer,
    vectors: dict[str, bytes] | None,
) -> dict[str, float | None]:
    """Return the scores of the images with *texts*, by key, None for undecodable ones.

    Adds the embeddings of all images to *vectors*, if it is given.
    """
    from vecap_tasks.quality.clip_model import unit_vectors

    scores: dict[str, float | None] = dict.fromkeys(texts)
    images = _decode_images(stored)
    while batch := dict(islice(images, scorer.batch_size)):
        features = scorer.embed(list(batch.values()))
        if vectors is not None:
            vectors |= zip(batch, unit_vectors(features), strict=False)  # features are padded
        if any(key in texts for key in batch):
            values = scorer.score(features, [texts.get(key, "") for key in batch])
            scores |= {key: value for key, value in zip(batch, values, strict=True) if key in texts}
    return scores


def _decode_images(stored: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, Image.Image]]:
    """Yield the images that can be decoded, by key."""
    for key, jpeg in stored:
        try:
            with Image.open(io.BytesIO(jpeg)) as opened:
                image = opened.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # PIL's decode errors
            continue
        yield key, image
