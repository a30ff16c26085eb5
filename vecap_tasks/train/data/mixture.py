"""Mixtures: named, immutable lists of the sources that a model is trained on.

A mixture is recorded in `{dataset}/mixtures/<name>.json`. Its digest covers everything that determines the batches
(digests, weights and texts of the sources), but not names and paths. A seal covers the whole file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, TypeAlias

from vecap_tasks.config import Text, Weights
from vecap_tasks.core.manifest import digest
from vecap_tasks.core.store import Store
from vecap_tasks.errors import CorruptError, PermanentError

FORMAT = 1
_FOLDER = "mixtures"


Drawn: TypeAlias = tuple[tuple[Text, float], ...]  # texts with weights, in the order of fallbacks


@dataclass(frozen=True, slots=True)
class RecordedVersion:
    """A published version. `digest` is that of its `assemble` manifest; `root` is as written in the configuration.

    `drawn` are the texts of `arm` when it was recorded. Records of earlier releases have `mixed_p` instead, the
    probability of AltText for `arm: mixed`.
    """

    root: str
    dataset: str
    version: str
    digest: str
    samples: int
    weight: float
    arm: str | None
    mixed_p: float | None = None
    drawn: Drawn | None = None
    kind: Literal["version"] = "version"

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.version}"

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that determine the batches."""
        return _without_drawn({name: value for name, value in asdict(self).items() if name != "root"})


@dataclass(frozen=True, slots=True)
class RecordedTar:
    """One tar of a source. `check` is `sha256:…` of its bytes, or S3's `etag:…`.

    `usable` counts the samples with at least one of a set of texts, by `text_key`; a record of 0.1 has them by arm.
    `skipped` counts the samples that no arm can use by reason. `rules` is the digest of the rules that found private
    data in the texts, None in a record of a release that did not search them.
    """

    path: str
    bytes: int
    check: str
    samples: int
    usable: Mapping[str, int]
    skipped: Mapping[str, int]
    rules: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedTars:
    """External webdataset tars. `paths` are as written in the configuration."""

    paths: tuple[str, ...]
    texts: Mapping[Text, str]
    tars: tuple[RecordedTar, ...]
    weight: float
    arm: str | None
    mixed_p: float | None = None
    drawn: Drawn | None = None
    kind: Literal["tars"] = "tars"

    @property
    def name(self) -> str:
        return " ".join(self.paths)

    @property
    def samples(self) -> int:
        """The number of samples, without skipped ones."""
        return sum(tar.samples - sum(tar.skipped.values()) for tar in self.tars)

    @property
    def skipped(self) -> dict[str, int]:
        totals: dict[str, int] = {}
        for tar in self.tars:
            for reason, count in tar.skipped.items():
                totals[reason] = totals.get(reason, 0) + count
        return totals

    @property
    def digest(self) -> str:
        """The sha256 (64 hex digits) of the tars' file names, sizes, checks and rules; folders do not enter it."""
        recorded = ([PurePosixPath(tar.path).name, tar.bytes, tar.check, tar.rules] for tar in self.tars)
        return digest([values if values[-1] else values[:-1] for values in recorded])

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that determine the batches."""
        fields = ("kind", "digest", "weight", "arm", "mixed_p", "drawn")
        return _without_drawn({name: getattr(self, name) for name in fields} | {"texts": dict(self.texts)})


Part = RecordedVersion | RecordedTars


def source_weights(part: Part) -> Weights:
    """Return the texts that every run draws from *part*, with their weights; empty if those of the run's arm."""
    if part.drawn is not None:
        return dict(part.drawn)
    if part.arm == "mixed" and part.mixed_p is not None:
        return {"alttext": part.mixed_p, "vecap": 1 - part.mixed_p}
    return {}


def text_key(texts: Iterable[Text]) -> str:
    """Return the name of a set of texts in the counts of a mixture's record: `alttext+vecap`."""
    return "+".join(sorted(texts))


def _without_drawn(identity: dict[str, Any]) -> dict[str, Any]:
    """Return *identity* without `drawn` if it is not set, as earlier releases recorded it."""
    return {name: value for name, value in identity.items() if name != "drawn" or value is not None}


@dataclass(frozen=True, slots=True)
class Mixture:
    """A named, ordered list of sources."""

    name: str
    sources: tuple[Part, ...]

    @property
    def digest(self) -> str:
        """The sha256 (64 hex digits) of everything that determines the batches."""
        return digest({"format": FORMAT, "sources": [source.identity for source in self.sources]})

    def to_json(self) -> bytes:
        sources = [
            asdict(source) | {"digest": source.digest, "samples": source.samples, "skipped": source.skipped}
            if isinstance(source, RecordedTars)
            else asdict(source)
            for source in self.sources
        ]
        body = {"format": FORMAT, "name": self.name, "digest": self.digest, "sources": sources}
        body["seal"] = digest(body)
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, path: str) -> Mixture:
        """Parse a recorded mixture and check its seal. Raises CorruptError, which includes *path*."""
        try:
            body = json.loads(data)
            if body.pop("seal") != digest(body):
                raise CorruptError(f"{path} is corrupt: it changed after it was recorded; restore it")
            if body["format"] != FORMAT:
                raise PermanentError(f"{path} has format {body['format']}, this release reads {FORMAT}; update vecap")
            mixture = cls(body["name"], tuple(_part(source) for source in body["sources"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(f"{path} is not a valid mixture: {error}; restore it") from error
        return mixture


def _part(body: dict[str, Any]) -> Part:
    drawn = body.get("drawn")
    body = body | {"drawn": None if drawn is None else tuple((text, weight) for text, weight in drawn)}
    if body["kind"] == "version":
        return RecordedVersion(**body)
    fields = {name: value for name, value in body.items() if name not in ("digest", "samples", "skipped")}
    tars = tuple(RecordedTar(**tar) for tar in body["tars"])
    return RecordedTars(**fields | {"paths": tuple(body["paths"]), "tars": tars})


def mixture_file(dataset: str, name: str) -> str:
    """Return the path of the mixture *name* in the store."""
    return f"{dataset}/{_FOLDER}/{name}.json"


def record_mixture(store: Store, dataset: str, mixture: Mixture) -> None:
    """Record *mixture*, unless it is recorded already. Raises VecapError if a different mixture has its name."""
    file = mixture_file(dataset, mixture.name)
    if store.create(file, mixture.to_json()):
        return
    existing = Mixture.from_json(store.read(file), file)
    if existing.digest != mixture.digest:
        raise PermanentError(
            f"mixture {mixture.name} already exists with other sources or weights, or other rules for private "
            f"data (digest {existing.digest[:12]}, not {mixture.digest[:12]}); mixtures are immutable, use another name"
        )


def read_mixture(store: Store, dataset: str, name: str) -> Mixture:
    """Return the recorded mixture *name*. Raises VecapError if it does not exist, CorruptError if it changed."""
    file = mixture_file(dataset, name)
    try:
        data = store.read(file)
    except FileNotFoundError as error:
        recorded = ", ".join(mixture_names(store, dataset)) or "none"
        raise PermanentError(f"dataset {dataset} has no mixture {name}; recorded mixtures: {recorded}") from error
    return Mixture.from_json(data, file)


def mixture_names(store: Store, dataset: str) -> list[str]:
    """Return the names of the recorded mixtures, sorted."""
    files = store.files(f"{dataset}/{_FOLDER}")
    return [name.removesuffix(".json") for name in files if name.endswith(".json")]
