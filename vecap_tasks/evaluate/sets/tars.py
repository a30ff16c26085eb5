"""Sets in webdataset tars, as CLIP_benchmark exports them: images with a `.txt` of captions, or a number in `.cls`."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vecap_tasks.config import CaptionTars, ClassTars
from vecap_tasks.dataset.globs import split_glob
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.sets.classes import number_labels
from vecap_tasks.evaluate.sets.kinds import RetrievalSet, ZeroShotSet
from vecap_tasks.evaluate.sets.picture import Picture

_IMAGES = ("jpg", "jpeg", "png", "webp")
_TEXTS = ("txt", "json", "cls")


@dataclass(slots=True)
class _Sample:
    """What a tar has of one key: the picture, where there is one, and the texts by their ending."""

    name: str
    tar: Path
    picture: Picture | None = None
    texts: dict[str, str] = field(default_factory=dict)

    def text(self, kind: str) -> str:
        """Return the text *kind*. Raises VecapError where it is missing."""
        if kind not in self.texts:
            raise VecapError(f"{self.tar}: {self.name} has no .{kind}; make the tar again")
        return self.texts[kind]


def read_caption_tars(source: CaptionTars, paths: Sequence[str]) -> RetrievalSet:
    """Read captions and where the images lie. Raises VecapError for a sample without an image or a caption."""
    pictures: list[Picture] = []
    captions: list[str] = []
    owners: list[int] = []
    for sample, picture in _pictures(source.name, paths):
        key = source.caption_key
        said = sample.text("txt").splitlines() if key is None else _said(sample, key)
        kept = [caption.strip() for caption in said if caption.strip()][: source.captions_per_image]
        if not kept:
            raise VecapError(f"{sample.tar}: {sample.name} has no caption; make the tar again")
        owners += [len(pictures)] * len(kept)
        captions += kept
        pictures.append(picture)
    return RetrievalSet(source.name, tuple(pictures), tuple(captions), tuple(owners))


def read_class_tars(
    source: ClassTars, paths: Sequence[str], classes: Sequence[str], templates: Sequence[str]
) -> ZeroShotSet:
    """Read classes and where the images lie. Raises VecapError for a sample without an image or a class."""
    pictures: list[Picture] = []
    labels: list[int] = []
    for sample, picture in _pictures(source.name, paths):
        labels += number_labels([(sample.name, sample.text("cls").strip())], classes, sample.tar)
        pictures.append(picture)
    return ZeroShotSet(source.name, tuple(pictures), tuple(labels), tuple(classes), tuple(templates))


def _said(sample: _Sample, key: str) -> list[str]:
    """Return the caption, or the captions, under *key* of the sample's JSON."""
    try:
        value = json.loads(sample.text("json"))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise VecapError(f"{sample.tar}: the .json of {sample.name} has no {key}; correct `caption_key`") from error
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _pictures(name: str, paths: Sequence[str]) -> Iterator[tuple[_Sample, Picture]]:
    for pattern in paths:
        path, tail = split_glob(pattern, str)
        tars = [tar for tar in (sorted(Path(path).glob(tail)) if tail else [Path(path)]) if tar.is_file()]
        if not tars:
            raise VecapError(f"{name}: nothing matches {pattern}; correct `paths`")
        for tar in tars:
            for sample in _samples(tar):
                if sample.picture is None:
                    raise VecapError(f"{tar}: {sample.name} has no image ({', '.join(_IMAGES)}); make the tar again")
                yield sample, sample.picture


def _samples(path: Path) -> Iterator[_Sample]:
    """Give the samples of the tar in order; webdataset's rule: a key ends at the first dot of the file's name."""
    sample: _Sample | None = None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, slash, file = member.name.rpartition("/")
                stem, _, kind = file.partition(".")
                key = f"{folder}{slash}{stem}"
                if sample is not None and sample.name != key:
                    yield sample
                    sample = None
                if sample is None:
                    sample = _Sample(key, path)
                if kind.lower() in _IMAGES:
                    sample.picture = Picture(member.name, path, member.offset_data, member.size)
                elif kind in _TEXTS:
                    stream = tar.extractfile(member)
                    sample.texts[kind] = stream.read().decode("utf-8") if stream else ""
    except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
        raise VecapError(f"{path} cannot be read as a tar of samples: {error}; restore it") from error
    if sample is not None:
        yield sample
