"""A mixture: the recipe of what a model is trained on, recorded once under its name and never changed.

It lies in `{dataset}/mixtures/<name>.json`. Its digest covers what is in the batches: the digests of the sources, their
weights, arms and probabilities; not where the sources lie, and not the name. A seal covers everything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from vecap_tasks.config import Arm, Text
from vecap_tasks.core.manifest import digest
from vecap_tasks.core.store import Store
from vecap_tasks.errors import CorruptError, PermanentError

FORMAT = 1
_FOLDER = "mixtures"


@dataclass(frozen=True, slots=True)
class VersionPart:
    """A published version: `digest` is that of its manifest of `assemble`, `root` as the configuration writes it."""

    root: str
    dataset: str
    version: str
    digest: str
    samples: int
    weight: float
    arm: Arm | None
    mixed_p: float | None
    kind: Literal["version"] = "version"

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.version}"

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the batches."""
        return {name: value for name, value in asdict(self).items() if name != "root"}


@dataclass(frozen=True, slots=True)
class TarPart:
    """One tar of a source. `check` is `sha256:…` of its bytes, or `etag:…` as S3 has it.

    `usable` are its samples with a text for each arm, `skipped` those that no arm can use, by reason.
    """

    path: str
    bytes: int
    check: str
    samples: int
    usable: Mapping[Arm, int]
    skipped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TarsPart:
    """Someone's webdataset tars; `paths` as the configuration writes them."""

    paths: tuple[str, ...]
    texts: Mapping[Text, str]
    tars: tuple[TarPart, ...]
    weight: float
    arm: Arm | None
    mixed_p: float | None
    kind: Literal["tars"] = "tars"

    @property
    def name(self) -> str:
        return " ".join(self.paths)

    @property
    def samples(self) -> int:
        """Samples with an image and a text for some arm or none; what was skipped is not among them."""
        return sum(tar.samples - sum(tar.skipped.values()) for tar in self.tars)

    @property
    def skipped(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for tar in self.tars:
            for reason, count in tar.skipped.items():
                found[reason] = found.get(reason, 0) + count
        return found

    @property
    def digest(self) -> str:
        """sha256 over the tars' names, sizes and checks, 64 hex digits: no path enters it."""
        return digest([[PurePosixPath(tar.path).name, tar.bytes, tar.check] for tar in self.tars])

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the batches."""
        return {
            "kind": self.kind,
            "digest": self.digest,
            "texts": dict(self.texts),
            "weight": self.weight,
            "arm": self.arm,
            "mixed_p": self.mixed_p,
        }


Part = VersionPart | TarsPart


@dataclass(frozen=True, slots=True)
class Mixture:
    """A recipe with its sources in their order."""

    name: str
    sources: tuple[Part, ...]

    @property
    def digest(self) -> str:
        """sha256 of what decides the batches, 64 hex digits."""
        return digest({"format": FORMAT, "sources": [source.identity for source in self.sources]})

    def to_json(self) -> bytes:
        sources = [
            asdict(source) | {"digest": source.digest, "samples": source.samples, "skipped": source.skipped}
            if isinstance(source, TarsPart)
            else asdict(source)
            for source in self.sources
        ]
        body = {"format": FORMAT, "name": self.name, "digest": self.digest, "sources": sources}
        body["seal"] = digest(body)
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Mixture:
        """Read a recorded mixture and check its seal. Raises CorruptError naming *where* it lies."""
        try:
            body = json.loads(data)
            if body.pop("seal") != digest(body):
                raise CorruptError(f"{where} was changed after it was recorded; restore it")
            if body["format"] != FORMAT:
                raise PermanentError(f"{where} has format {body['format']}, this release reads {FORMAT}; update vecap")
            mixture = cls(body["name"], tuple(_part(source) for source in body["sources"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(f"{where} is no mixture: {error}; restore it") from error
        return mixture


def _part(body: dict[str, Any]) -> Part:
    if body["kind"] == "version":
        return VersionPart(**body)
    kept = {name: value for name, value in body.items() if name not in ("digest", "samples", "skipped")}
    tars = tuple(TarPart(**tar) for tar in body["tars"])
    return TarsPart(**kept | {"paths": tuple(body["paths"]), "tars": tars})


def mixture_file(dataset: str, name: str) -> str:
    """Return where the store has the mixture *name*."""
    return f"{dataset}/{_FOLDER}/{name}.json"


def record_mixture(store: Store, dataset: str, mixture: Mixture) -> None:
    """Record *mixture*, unless the very same is. Raises VecapError where its name is taken by another one."""
    file = mixture_file(dataset, mixture.name)
    if store.create(file, mixture.to_json()):
        return
    other = Mixture.from_json(store.read(file), file)
    if other.digest != mixture.digest:
        raise PermanentError(
            f"there is a mixture {mixture.name} already, of other sources or weights (digest {other.digest[:12]}, not "
            f"{mixture.digest[:12]}); a mixture is never changed: give this one another name"
        )


def read_mixture(store: Store, dataset: str, name: str) -> Mixture:
    """Return the recorded mixture *name*. Raises VecapError where there is none, CorruptError where it was changed."""
    file = mixture_file(dataset, name)
    try:
        data = store.read(file)
    except FileNotFoundError as error:
        known = ", ".join(mixture_names(store, dataset)) or "none"
        raise PermanentError(f"dataset {dataset} has no mixture {name}; there are: {known}") from error
    return Mixture.from_json(data, file)


def mixture_names(store: Store, dataset: str) -> list[str]:
    """Return the names of the recorded mixtures, sorted."""
    files = store.files(f"{dataset}/{_FOLDER}")
    return [name.removesuffix(".json") for name in files if name.endswith(".json")]
