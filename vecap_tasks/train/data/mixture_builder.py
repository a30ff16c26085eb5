"""From the configuration to training data: other tars found and counted, the mixture recorded, its sources opened."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from vecap_tasks.config import Arm, Config, MixtureConfig, TarSource, Text, VersionSource
from vecap_tasks.core.files import DigestReader, SourceFile, find_files
from vecap_tasks.core.manifest import Input, Manifest
from vecap_tasks.core.schemas import SAMPLES
from vecap_tasks.core.store import Store, open_filesystem
from vecap_tasks.core.tables import connect, create_view
from vecap_tasks.core.verify import Corruption, RecordedFile, read_verified_manifest, recorded_files
from vecap_tasks.core.version import Version, published, read_version
from vecap_tasks.errors import ConfigError, CorruptError, PermanentError, VecapError
from vecap_tasks.train.data.mixture import (
    Mixture,
    Part,
    TarPart,
    TarsPart,
    VersionPart,
    mixture_names,
    read_mixture,
    record_mixture,
)
from vecap_tasks.train.data.samples import ReadStats, Shard, Source, parse_samples, usable

log = logging.getLogger(__name__)

_HERE = "{version}"
_SETTING = "the paths in train.mixture"
_USABLE: Mapping[Arm, str] = {  # SQL on the table beside a tar
    "alttext": "alttext != ''",
    "vec": "vec != ''",
    "vecap": "vecap != ''",
    "mixed": "alttext != '' OR vecap != ''",
    "alttext_rewritten": "alttext_rewritten != ''",
}


@dataclass(frozen=True, slots=True)
class FoundTar:
    """A tar that is there. `etag` is S3's, None for a file of this machine."""

    file: SourceFile
    etag: str | None

    @property
    def check(self) -> str:
        """Return what tells these bytes from others: S3's own tag, or the sha256 of a file, which is read for it."""
        if self.etag is not None:
            return f"etag:{self.etag}"
        with self.file.open() as stream:
            return f"sha256:{DigestReader(stream).input(self.file.name).digest}"

    def shard(self, counted: Mapping[Arm, int] | None = None) -> Shard:
        filesystem, path = open_filesystem(self.file.location)
        return Shard(self.file.name, filesystem, path, counted)


def find_tars(config: Config, patterns: Sequence[str]) -> dict[str, FoundTar]:
    """Return the tars of *patterns* by name, in their order and by name within one; each once.

    Raises VecapError for a pattern that finds nothing, or a place that cannot be read.
    """
    files = find_files(config, patterns, kind="tar", setting=_SETTING)
    etags = _etags({file.location.rpartition("/")[0] for file in files.values() if file.remote})
    return {name: FoundTar(file, etags.get(file.location, "") if file.remote else None) for name, file in files.items()}


def _etags(folders: Collection[str]) -> dict[str, str]:
    """Return the ETags of the objects directly in *folders* (`s3://…`), by place. pyarrow does not give them."""
    if not folders:
        return {}
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    found: dict[str, str] = {}
    for folder in folders:
        bucket, _, prefix = f"{folder.removeprefix('s3://')}/".partition("/")
        try:
            pages = boto3.client("s3").get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
                found |= {f"s3://{bucket}/{one['Key']}": one["ETag"].strip('"') for one in page.get("Contents", [])}
        except (BotoCoreError, ClientError) as error:
            reason = " ".join(str(error).split())
            raise VecapError(f"{folder} cannot be read: {reason}; check {_SETTING} and the AWS variables") from error
    return found


def count_tars(
    tars: Iterable[FoundTar], texts: Mapping[Text, str], known: Sequence[TarPart], threads: int
) -> tuple[TarPart, ...]:
    """Read every tar once and say what is in it; *known* ones of the same name, size and ETag are not read again."""
    before = {(tar.path, tar.bytes): tar for tar in known}

    def count(tar: FoundTar) -> TarPart:
        found = before.get((tar.file.name, tar.file.size))
        if found is not None and (tar.etag is None or found.check == tar.check):
            return found
        log.info("counting %s (%s bytes)", tar.file.name, f"{tar.file.size:,}")
        return _count_tar(tar, texts)

    with ThreadPoolExecutor(threads, thread_name_prefix="count") as pool:
        return tuple(pool.map(count, tars))


def _count_tar(tar: FoundTar, texts: Mapping[Text, str]) -> TarPart:
    counted: dict[Arm, int] = dict.fromkeys(get_args(Arm), 0)
    stats = ReadStats()
    shard = tar.shard()
    places = {text: (place,) for text, place in texts.items()}
    with shard.open() as stream:
        for written in parse_samples(stream, shard.name, places, stats, own=False):
            for arm in counted:
                counted[arm] += usable(written, arm)
    return TarPart(tar.file.name, tar.file.size, tar.check, stats.samples, counted, dict(sorted(stats.skipped.items())))


def open_mixture(config: Config, version: str | None) -> Mixture | None:
    """Return the mixture that `train.mixture` names or describes, None where the version is trained on alone.

    *version* is the one that is trained on. A mixture that is described is recorded, if it is not yet: foreign tars
    are read once for that. Raises VecapError where a source is not there, or the name is taken by another recipe.
    """
    wanted = config.train.mixture
    if wanted is None:
        return None
    store = Store(config.resolve(config.root))
    if isinstance(wanted, str):
        mixture = read_mixture(store, config.dataset, _fill(wanted, version))
    else:
        mixture = make_mixture(config, wanted, version)
    versions = [source.name for source in mixture.sources if isinstance(source, VersionPart)]
    if version is not None and f"{config.dataset}/{version}" not in versions:
        raise PermanentError(
            f"the mixture {mixture.name} does not hold version {version}, beside which its models would lie; "
            f"add it to the sources, or train for one that it holds ({', '.join(versions) or 'none'})"
        )
    return mixture


def make_mixture(config: Config, recipe: MixtureConfig, version: str | None) -> Mixture:
    """Return the mixture of *recipe*, recorded. *version* stands for `{version}` in it."""
    store = Store(config.resolve(config.root))
    name = _fill(recipe.name, version)
    known: tuple[Part, ...] = ()
    if name in mixture_names(store, config.dataset):
        known = read_mixture(store, config.dataset, name).sources
    mixture = Mixture(
        name,
        tuple(
            _version_part(config, source, version)
            if isinstance(source, VersionSource)
            else _tars_part(config, source, known)
            for source in recipe.sources
        ),
    )
    record_mixture(store, config.dataset, mixture)
    return mixture


def _fill(text: str, version: str | None) -> str:
    if _HERE in text and version is None:
        raise ConfigError(f"train.mixture: {text} stands for a version; name it with --version")
    return text.replace(_HERE, version or "")


def _version_part(config: Config, source: VersionSource, version: str | None) -> VersionPart:
    root = source.root if source.root is not None else config.root
    dataset = source.dataset or config.dataset
    name = _fill(source.version, version)
    store = Store(config.resolve(root))
    manifest = published(store, read_version(store, dataset, name))
    if manifest is None:
        raise PermanentError(f"train.mixture: version {name} of {dataset} is not published yet; make it first")
    samples = manifest.counters["samples"]
    return VersionPart(root, dataset, name, manifest.digest, samples, source.weight, source.arm, source.mixed_p)


def _tars_part(config: Config, source: TarSource, known: Sequence[Part]) -> TarsPart:
    counted = [tar for part in known if isinstance(part, TarsPart) and part.texts == source.texts for tar in part.tars]
    tars = count_tars(find_tars(config, source.paths).values(), source.texts, counted, config.train.loader_threads)
    return TarsPart(tuple(source.paths), source.texts, tars, source.weight, source.arm, source.mixed_p)


def mixture_inputs(mixture: Mixture) -> list[Input]:
    """Return the mixture and its sources as inputs of a manifest: kinds `mixture`, `version` and `tars`."""
    sources = [Input(source.kind, source.name, source.digest) for source in mixture.sources]
    return [Input("mixture", mixture.name, mixture.digest), *sources]


def check_mixture(config: Config, mixture: Mixture) -> list[Corruption]:
    """Read every foreign tar again, and the manifests of the versions; return what is not as it was recorded."""
    corruptions = []
    for source in mixture.sources:
        if isinstance(source, VersionPart):
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
                corruptions.append(Corruption(tar.path, "was changed since the mixture was recorded"))
    return corruptions


def training_sources(config: Config, version: Version, arm: Arm) -> list[Source]:
    """Return what a run of *arm* on *version* reads: the version, or the sources of the mixture.

    Their shards are counted where the run `streams`. Raises VecapError for a mixture that the version is not in,
    CorruptError for a source that was changed.
    """
    parts = _parts(config, version)
    counted = streams(config, parts)
    return [
        _version_source(config, part, arm, counted=counted)
        if isinstance(part, VersionPart)
        else _tar_source(config, part, arm)
        for part in parts
    ]


def training_files(config: Config, version: Version) -> list[RecordedFile]:
    """Return the files that a run on *version* reads, as they were published, or recorded with the mixture.

    A foreign tar on S3 has no sha256; its ETag is compared when a run opens it. Raises as `training_sources` does.
    """
    parts = _parts(config, version)
    endings = (".tar", ".parquet") if streams(config, parts) else (".tar",)
    files: list[RecordedFile] = []
    for part in parts:
        if isinstance(part, VersionPart):
            store, manifest = _manifest(config, part)
            names = [name for ending in endings for name in manifest.files_ending(ending)]
            remedy = f"restore it, or delete {manifest.location} and run `vecap assemble` again"
            files += recorded_files(store, manifest, names, remedy)
            continue
        found = find_tars(config, part.paths)
        for tar in part.tars:
            if tar.path in found and not found[tar.path].file.remote:
                place, sha256 = Path(found[tar.path].file.location), tar.check.removeprefix("sha256:")
                remedy = f"restore {place}, or record a mixture with another name"
                files.append(RecordedFile(Store(str(place.parent)), place.name, tar.bytes, sha256, remedy))
    return files


def _parts(config: Config, version: Version) -> tuple[Part, ...]:
    mixture = open_mixture(config, version.name)
    alone = VersionSource(kind="version", version=version.name)
    return mixture.sources if mixture else (_version_part(config, alone, version.name),)


def streams(config: Config, sources: Sequence[Part] | Sequence[Source]) -> bool:
    """Say whether *sources* are read shard by shard, and not shuffled as a whole: their size alone decides."""
    return sum(source.samples for source in sources) > config.train.reading.stream_above


def _version_source(config: Config, part: VersionPart, arm: Arm, *, counted: bool) -> Source:
    store, manifest = _manifest(config, part)
    usable = _count(store, manifest) if counted else {}
    shards = tuple(
        Shard(tar, store.filesystem, store.path(tar), usable.get(tar)) for tar in manifest.files_ending(".tar")
    )
    mixed_p = config.train.mixed_p if part.mixed_p is None else part.mixed_p
    return Source(part.name, shards, part.samples, part.weight, part.arm or arm, mixed_p)


def _tar_source(config: Config, part: TarsPart, arm: Arm) -> Source:
    found = find_tars(config, part.paths)
    shards = []
    for tar in part.tars:
        there = found.get(tar.path)
        if there is None or there.file.size != tar.bytes or (there.etag is not None and there.check != tar.check):
            raise CorruptError(f"{tar.path} is missing or was changed since the mixture was recorded; restore it")
        shards.append(there.shard(tar.usable))
    texts = {text: (place,) for text, place in part.texts.items()}
    mixed_p = config.train.mixed_p if part.mixed_p is None else part.mixed_p
    return Source(part.name, tuple(shards), part.samples, part.weight, part.arm or arm, mixed_p, texts, own=False)


def _manifest(config: Config, part: VersionPart) -> tuple[Store, Manifest]:
    store = Store(config.resolve(part.root))
    manifest = read_verified_manifest(store, f"{part.dataset}/{part.version}/assemble")
    if manifest.digest != part.digest:
        raise CorruptError(
            f"version {part.name} has the digest {manifest.digest[:12]}, the mixture was made of {part.digest[:12]}; "
            "restore it"
        )
    return store, manifest


def _count(store: Store, manifest: Manifest) -> dict[str, dict[Arm, int]]:
    """Return how many samples of each tar have a text for each arm, as the tables beside the tars say."""
    tables = manifest.files_ending(".parquet")
    with connect(store) as connection:
        create_view(connection, store, "samples", tables, SAMPLES)
        columns = {name for name, *_ in connection.execute("DESCRIBE samples").fetchall()}
        counts = [
            f"count(*) FILTER ({has})" if arm in columns or arm == "mixed" else "0" for arm, has in _USABLE.items()
        ]
        rows = connection.execute(f"SELECT filename, {', '.join(counts)} FROM samples GROUP BY 1").fetchall()  # noqa: S608
    counted = {filename: dict(zip(_USABLE, found, strict=True)) for filename, *found in rows}
    names = {table: f"{table.removesuffix('.parquet')}.tar" for table in tables}
    return {names[table]: counted[store.query_path(table)] for table in tables}
