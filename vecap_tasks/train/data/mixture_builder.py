"""Builds mixtures from the configuration: finds and counts external tars, records mixtures, opens their sources."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from vecap_tasks.config import REMOTE_SCHEMES, TEXTS, Config, MixtureConfig, TarSource, Text, VersionSource, Weights
from vecap_tasks.core.files import DigestReader, SourceFile, find_files
from vecap_tasks.core.manifest import Input, Manifest
from vecap_tasks.core.object_storage import open_bucket
from vecap_tasks.core.private_data import rules_digest
from vecap_tasks.core.samples import training_shards
from vecap_tasks.core.schemas import SAMPLES
from vecap_tasks.core.store import Store, open_filesystem
from vecap_tasks.core.tables import connect, create_view
from vecap_tasks.core.verify import Corruption, RecordedFile, check_recorded, read_verified_manifest, recorded_files
from vecap_tasks.core.version import Version, published, read_version
from vecap_tasks.errors import ConfigError, CorruptError, PermanentError, VecapError
from vecap_tasks.train.data.mixture import (
    Drawn,
    Mixture,
    Part,
    RecordedTar,
    RecordedTars,
    RecordedVersion,
    mixture_names,
    read_mixture,
    record_mixture,
    source_weights,
    text_key,
)
from vecap_tasks.train.data.samples import ReadStats, Shard, Source, parse_samples

log = logging.getLogger(__name__)

_VERSION_FIELD = "{version}"
_SETTING = "the paths in train.mixture"
_TEXT_SETS = tuple(chosen for size in range(1, len(TEXTS) + 1) for chosen in combinations(TEXTS, size))
_MIXED = text_key(("alttext", "vecap"))  # `mixed` in the counts of earlier releases


@dataclass(frozen=True, slots=True)
class FoundTar:
    """An existing tar. `etag` is the object store's, None for a local file."""

    file: SourceFile
    etag: str | None

    @property
    def check(self) -> str:
        """Return `etag:…` on object storage, otherwise `sha256:…`, which reads the file."""
        if self.etag is not None:
            return f"etag:{self.etag}"
        with self.file.open() as stream:
            return f"sha256:{DigestReader(stream).input(self.file.name).digest}"

    def shard(self, counted: int | None = None, check: str = "") -> Shard:
        filesystem, path = open_filesystem(self.file.location)
        kind, _, recorded = check.partition(":")
        return Shard(self.file.name, filesystem, path, counted, recorded if kind == "sha256" else None)


def find_tars(config: Config, patterns: Sequence[str]) -> dict[str, FoundTar]:
    """Return the tars that match *patterns*, without duplicates, by name; in the order of patterns, then names.

    Raises VecapError if a pattern matches nothing or a path cannot be read.
    """
    files = find_files(config, patterns, kind="tar", setting=_SETTING)
    etags = _etags({file.location.rpartition("/")[0] for file in files.values() if file.remote})
    return {name: FoundTar(file, etags.get(file.location, "") if file.remote else None) for name, file in files.items()}


def _etags(folders: Collection[str]) -> dict[str, str]:
    """Return the ETags of the objects directly in *folders* (URLs) by URL. pyarrow does not provide them."""
    etags: dict[str, str] = {}
    for folder in folders:
        scheme, _, path = folder.partition("://")
        name, _, key = path.partition("/")
        try:
            bucket = open_bucket(scheme, name)
            etags |= {bucket.url(info.key): (info.etag or "").strip('"') for info in bucket.children(key)[1]}
        except OSError as error:
            service = REMOTE_SCHEMES[scheme]
            raise VecapError(f"{error}; check {_SETTING} and the {service} variables") from error
    return etags


def count_tars(
    tars: Iterable[FoundTar], texts: Mapping[Text, str], known: Sequence[RecordedTar], threads: int
) -> tuple[RecordedTar, ...]:
    """Count the samples of all tars; *known* counts are reused for tars with the same name, size and ETag.

    A mixture is immutable, so its counts are reused with the rules for private data that they were made with.
    """
    known_tars = {(tar.path, tar.bytes): tar for tar in known}

    def count(tar: FoundTar) -> RecordedTar:
        known_tar = known_tars.get((tar.file.name, tar.file.size))
        if known_tar is not None and (tar.etag is None or known_tar.check == tar.check):
            return known_tar
        log.info("counting %s (%s bytes)", tar.file.name, f"{tar.file.size:,}")
        return _count_tar(tar, texts)

    with ThreadPoolExecutor(threads, thread_name_prefix="count") as pool:
        return tuple(pool.map(count, tars))


def _count_tar(tar: FoundTar, texts: Mapping[Text, str]) -> RecordedTar:
    usable = dict.fromkeys(map(text_key, _TEXT_SETS), 0)
    stats = ReadStats()
    shard = tar.shard()
    fields = {text: (field,) for text, field in texts.items()}
    with shard.open() as stream:
        for sample in parse_samples(stream, shard.name, fields, stats, own=False):
            for chosen in _TEXT_SETS:
                usable[text_key(chosen)] += any(sample.texts.get(text) for text in chosen)
    skipped = dict(sorted(stats.skipped.items()))
    return RecordedTar(tar.file.name, tar.file.size, tar.check, stats.samples, usable, skipped, rules_digest())


def load_mixture(config: Config, version: str | None) -> Mixture | None:
    """Return the mixture of `train.mixture`, or None if it is not set.

    *version* is the version to train on. A mixture given by its sources is recorded unless it exists; this reads
    external tars once. Raises VecapError if a source is missing or a different mixture has the name.
    """
    setting = config.training.mixture
    if setting is None:
        return None
    store = Store(config.resolve(config.root))
    if isinstance(setting, str):
        mixture = read_mixture(store, config.dataset, _fill_version(setting, version))
    else:
        mixture = make_mixture(config, setting, version)
    versions = [source.name for source in mixture.sources if isinstance(source, RecordedVersion)]
    if version is not None and f"{config.dataset}/{version}" not in versions:
        raise PermanentError(
            f"mixture {mixture.name} does not contain version {version}; add it to the sources, or train a version "
            f"that it contains ({', '.join(versions) or 'none'})"
        )
    return mixture


def make_mixture(config: Config, recipe: MixtureConfig, version: str | None) -> Mixture:
    """Record and return the mixture of *recipe*, with `{version}` replaced by *version*."""
    store = Store(config.resolve(config.root))
    name = _fill_version(recipe.name, version)
    known: tuple[Part, ...] = ()
    if name in mixture_names(store, config.dataset):
        known = read_mixture(store, config.dataset, name).sources
    mixture = Mixture(
        name,
        tuple(
            _record_version(config, source, version)
            if isinstance(source, VersionSource)
            else _record_tars(config, source, known)
            for source in recipe.sources
        ),
    )
    record_mixture(store, config.dataset, mixture)
    return mixture


def _fill_version(text: str, version: str | None) -> str:
    if _VERSION_FIELD in text and version is None:
        raise ConfigError(f"train.mixture: {text} needs a version; give --version")
    return text.replace(_VERSION_FIELD, version or "")


def _record_version(config: Config, source: VersionSource, version: str | None) -> RecordedVersion:
    root = source.root if source.root is not None else config.root
    dataset = source.dataset or config.dataset
    name = _fill_version(source.version, version)
    store = Store(config.resolve(root))
    manifest = published(store, read_version(store, dataset, name))
    if manifest is None:
        raise PermanentError(f"train.mixture: version {name} of {dataset} is not published; run `vecap run` first")
    samples = manifest.counters["samples"]
    drawn = _drawn(config, source.arm)
    return RecordedVersion(root, dataset, name, manifest.digest, samples, source.weight, source.arm, drawn=drawn)


def _drawn(config: Config, arm: str | None) -> Drawn | None:
    """Return the texts of *arm* to record; None without an arm, and for an arm that is a text."""
    return None if arm is None or arm in TEXTS else tuple(config.training.weights(arm).items())


def _record_tars(config: Config, source: TarSource, known: Sequence[Part]) -> RecordedTars:
    counted = [
        tar for part in known if isinstance(part, RecordedTars) and part.texts == source.texts for tar in part.tars
    ]
    tars = count_tars(find_tars(config, source.paths).values(), source.texts, counted, config.training.loader_threads)
    drawn = _drawn(config, source.arm)
    return RecordedTars(tuple(source.paths), source.texts, tars, source.weight, source.arm, drawn=drawn)


def mixture_inputs(mixture: Mixture) -> list[Input]:
    """Return the mixture and its sources as manifest inputs of the kinds `mixture`, `version` and `tars`."""
    sources = [Input(source.kind, source.name, source.digest) for source in mixture.sources]
    return [Input("mixture", mixture.name, mixture.digest), *sources]


def check_mixture(config: Config, mixture: Mixture) -> list[Corruption]:
    """Compare all external tars and version manifests with the mixture; return the differences."""
    corruptions = []
    for source in mixture.sources:
        if isinstance(source, RecordedVersion):
            try:
                _manifest(config, source)
            except VecapError as error:
                corruptions.append(Corruption(source.name, str(error)))
            continue
        try:
            found = find_tars(config, source.paths)
        except VecapError as error:
            corruptions.append(Corruption(source.name, str(error)))
            continue
        for tar in source.tars:
            if tar.path not in found:
                corruptions.append(Corruption(tar.path, "is missing"))
            elif found[tar.path].check != tar.check:
                corruptions.append(Corruption(tar.path, "changed after the mixture was recorded"))
    return corruptions


def training_sources(config: Config, version: Version, arm: str) -> list[Source]:
    """Return the sources of a run of *arm* on *version*: the version, or the sources of the mixture.

    Shards are counted if the run streams them. Raises VecapError if the mixture does not contain the version, and
    CorruptError if a source changed.
    """
    parts = _parts(config, version)
    counted = is_streamed(config, parts)
    return [
        _version_source(config, part, arm, counted=counted)
        if isinstance(part, RecordedVersion)
        else _tar_source(config, part, arm, counted=counted)
        for part in parts
    ]


def training_files(config: Config, version: Version) -> list[RecordedFile]:
    """Return the files that a run on *version* reads, with their recorded digests.

    External tars on object storage are omitted; their ETags are compared when a run opens them. Raises the errors of
    `training_sources`.
    """
    parts = _parts(config, version)
    counted = is_streamed(config, parts)
    files: list[RecordedFile] = []
    for part in parts:
        if isinstance(part, RecordedVersion):
            store, manifest = _manifest(config, part)
            remedy = f"restore it, or delete {manifest.location} and run `vecap assemble` again"
            shards = training_shards(store, manifest, remedy)
            files += [shard.tar for shard in shards]
            files += [shard.table for shard in shards if counted or shard.referenced]
            continue
        found = find_tars(config, part.paths)
        for tar in part.tars:
            if tar.path in found and not found[tar.path].file.remote:
                path, sha256 = Path(found[tar.path].file.location), tar.check.removeprefix("sha256:")
                remedy = f"restore {path}, or record a mixture with another name"
                files.append(RecordedFile(Store(str(path.parent)), path.name, tar.bytes, sha256, remedy))
    return files


def _parts(config: Config, version: Version) -> tuple[Part, ...]:
    mixture = load_mixture(config, version.name)
    source = VersionSource(kind="version", version=version.name)
    return mixture.sources if mixture else (_record_version(config, source, version.name),)


def is_streamed(config: Config, sources: Sequence[Part] | Sequence[Source]) -> bool:
    """Return whether *sources* are streamed shard by shard; depends only on their number of samples."""
    return sum(source.samples for source in sources) > config.training.reading.stream_above


def _weights(config: Config, part: Part, arm: str) -> Weights:
    """Return the texts that a run of *arm* draws from *part*."""
    return source_weights(part) or config.training.weights(part.arm or arm)


def _version_source(config: Config, part: RecordedVersion, arm: str, *, counted: bool) -> Source:
    store, manifest = _manifest(config, part)
    texts = _weights(config, part, arm)
    usable = _count(store, manifest, texts) if counted else {}
    shards = tuple(
        Shard(
            shard.tar.name,
            store.filesystem,
            store.path(shard.tar.name),
            usable.get(shard.table.name),
            shard.tar.sha256,
            shard.table if shard.referenced else None,
        )
        for shard in training_shards(store, manifest)
    )
    return Source(part.name, shards, part.samples, part.weight, texts)


def _tar_source(config: Config, part: RecordedTars, arm: str, *, counted: bool) -> Source:
    found = find_tars(config, part.paths)
    texts = _weights(config, part, arm)
    shards = []
    for tar in part.tars:
        current = found.get(tar.path)
        if (
            current is None
            or current.file.size != tar.bytes
            or (current.etag is not None and current.check != tar.check)
        ):
            raise CorruptError(f"{tar.path} is missing or changed after the mixture was recorded; restore it")
        if tar.rules != rules_digest():
            raise PermanentError(
                f"the texts of {tar.path} were recorded without this release's rules for private data; record the "
                "mixture under another name"
            )
        shards.append(current.shard(_usable(tar, texts) if counted else None, tar.check))
    fields = {text: (field,) for text, field in part.texts.items()}
    return Source(part.name, tuple(shards), part.samples, part.weight, texts, fields, own=False)


def _usable(tar: RecordedTar, texts: Weights) -> int:
    """Return how many samples of *tar* have one of *texts*. Raises PermanentError if its record does not count them."""
    key = text_key(texts)
    found = tar.usable.get(key, tar.usable.get("mixed") if key == _MIXED else None)
    if found is None:
        raise PermanentError(
            f"{tar.path} was recorded without counts of its samples with {' or '.join(texts)}; record the mixture "
            "under another name"
        )
    return found


def _manifest(config: Config, part: RecordedVersion) -> tuple[Store, Manifest]:
    store = Store(config.resolve(part.root))
    manifest = read_verified_manifest(store, f"{part.dataset}/{part.version}/assemble")
    if manifest.digest != part.digest:
        raise CorruptError(
            f"version {part.name} has digest {manifest.digest[:12]}, the mixture recorded {part.digest[:12]}; "
            "restore the version"
        )
    return store, manifest


def _count(store: Store, manifest: Manifest, texts: Weights) -> dict[str, int]:
    """Return the number of samples with one of *texts* by table of a shard."""
    tables = manifest.files_ending(".parquet")
    check_recorded(recorded_files(store, manifest, tables, "restore it"))
    with connect(store) as connection:
        create_view(connection, store, "samples", tables, SAMPLES)
        columns = {name for name, *_ in connection.execute("DESCRIBE samples").fetchall()}
        condition = " OR ".join(f"{text} != ''" for text in texts if text in columns) or "false"
        query = f"SELECT filename, count(*) FILTER ({condition}) FROM samples GROUP BY 1"  # noqa: S608 - names of texts
        counted = dict(connection.execute(query).fetchall())
    return {table: counted[store.query_path(table)] for table in tables}
