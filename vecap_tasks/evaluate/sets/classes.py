"""Classification sets: a folder per class, a table, or webdataset tars as CLIP_benchmark exports them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vecap_tasks.config import CaptionTars, ClassFolders, ClassTable, ClassTars
from vecap_tasks.core.tar import read_groups
from vecap_tasks.errors import PermanentError
from vecap_tasks.evaluate.sets.captions import read_columns, read_lines, read_text
from vecap_tasks.evaluate.sets.types import ImageFile, RetrievalSet, ZeroShotSet, find_images

_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
_TAR_IMAGES = ("jpg", "jpeg", "png", "webp")
_TEXTS = ("txt", "json", "cls")


def read_names(file: Path, key: str | None) -> tuple[str, ...]:
    """Return the names in *file*: a `.json` with a list, or with an object of lists of which *key* is taken, or lines.

    Raises VecapError for a file of another form and for a key that is not in it.
    """
    if file.suffix != ".json":
        return tuple(read_lines(file))
    try:
        body = json.loads(read_text(file))
    except ValueError as error:
        raise PermanentError(f"{file} is not valid JSON: {error}") from error
    if isinstance(body, dict):
        if key not in body:
            raise PermanentError(f"{file} has no list {key!r}; set `key` to one of {', '.join(sorted(body))}")
        body = body[key]
    if not isinstance(body, list) or not body or not all(isinstance(name, str) for name in body):
        raise PermanentError(f"{file} holds no list of names; write a JSON list of strings, or one a line")
    return tuple(body)


def read_templates(file: Path, key: str | None) -> tuple[str, ...]:
    """Return the templates in *file*, with {} for the name where they are written with {c}, as CLIP_benchmark's."""
    templates = tuple(template.replace("{c}", "{}") for template in read_names(file, key))
    for template in templates:
        if template.count("{}") != 1:
            raise PermanentError(f"{file}: {template!r} has not one {{}}; put it where the name stands")
    return templates


def read_class_folders(
    source: ClassFolders, images: Path, classes: Sequence[str], templates: Sequence[str]
) -> ZeroShotSet:
    """Read a tree with a folder a class. Where every folder has the name of a class, that is what it is; else the
    folders in the order of their names are the classes in theirs, as torchvision's ImageFolder numbers them.

    Raises VecapError where the numbers of folders and classes differ, or a folder has no image.
    """
    if not images.is_dir():
        raise PermanentError(f"{source.name}: there is no folder of images at {images}; correct `images`")
    folders = sorted(path for path in images.iterdir() if path.is_dir())
    numbers = {name: number for number, name in enumerate(classes)}
    if not {folder.name for folder in folders} <= numbers.keys():
        if len(folders) != len(classes):
            raise PermanentError(
                f"{source.name}: {images} has {len(folders):,} folders, and there are {len(classes):,} names of "
                "classes; give the names in the order of the folders, or name the folders as the classes"
            )
        numbers = {folder.name: number for number, folder in enumerate(folders)}
    pictures: list[ImageFile] = []
    labels: list[int] = []
    for folder in folders:
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _IMAGES)
        if not files:
            raise PermanentError(f"{source.name}: {folder} has no images; restore them, or remove the folder")
        pictures += [ImageFile(file.relative_to(images).as_posix(), file) for file in files]
        labels += [numbers[folder.name]] * len(files)
    if not pictures:
        raise PermanentError(f"{source.name}: {images} has no folders of images; correct `images`")
    return ZeroShotSet(source.name, tuple(pictures), tuple(labels), tuple(classes), tuple(templates))


def read_class_table(
    source: ClassTable, path: Path, images: Path, classes: Sequence[str], templates: Sequence[str]
) -> ZeroShotSet:
    """Read a table of images and classes, by name or by number. Raises VecapError for a class that there is not."""
    rows = read_columns(path, source.image_column, source.label_column, separator=source.separator)
    labels = number_labels(rows, classes, path)
    pictures = find_images([image for image, _ in rows], images, f"{source.name} of {path}")
    return ZeroShotSet(source.name, pictures, labels, tuple(classes), tuple(templates))


def number_labels(rows: Sequence[tuple[str, str]], classes: Sequence[str], path: Path) -> tuple[int, ...]:
    """Return the classes of *rows* (image, label) as numbers. A label that is a class's name is that class.

    Raises VecapError for a label that is neither a name nor a number of *classes*, and for one that two classes have.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    twice = {name for name in numbers if list(classes).count(name) > 1} if len(numbers) < len(classes) else set()
    labels = []
    for image, label in rows:
        number = numbers.get(label)
        if number is None and label.isdecimal() and int(label) < len(classes):
            number = int(label)
        if number is None:
            raise PermanentError(f"{path}: {image} has the label {label!r}, which the {len(classes)} classes have not")
        if label in twice:
            raise PermanentError(f"{path}: {image} has the label {label!r}, which two classes have; give their numbers")
        labels.append(number)
    return tuple(labels)


@dataclass(slots=True)
class _Sample:
    """What a tar has of one key: the picture, where there is one, and the texts by their ending."""

    name: str
    tar: Path
    picture: ImageFile | None = None
    texts: dict[str, str] = field(default_factory=dict)

    def text(self, kind: str) -> str:
        """Return the text *kind*. Raises VecapError where it is missing."""
        if kind not in self.texts:
            raise PermanentError(f"{self.tar}: {self.name} has no .{kind}; make the tar again")
        return self.texts[kind]


def read_caption_tars(source: CaptionTars, tars: Sequence[Path]) -> RetrievalSet:
    """Read captions and where the images lie. Raises VecapError for a sample without an image or a caption."""
    pictures: list[ImageFile] = []
    captions: list[str] = []
    owners: list[int] = []
    for sample, picture in _pictures(tars):
        key = source.caption_key
        said = sample.text("txt").splitlines() if key is None else _said(sample, key)
        kept = [caption.strip() for caption in said if caption.strip()][: source.captions_per_image]
        if not kept:
            raise PermanentError(f"{sample.tar}: {sample.name} has no caption; make the tar again")
        owners += [len(pictures)] * len(kept)
        captions += kept
        pictures.append(picture)
    return RetrievalSet(source.name, tuple(pictures), tuple(captions), tuple(owners))


def read_class_tars(
    source: ClassTars, tars: Sequence[Path], classes: Sequence[str], templates: Sequence[str]
) -> ZeroShotSet:
    """Read classes and where the images lie. Raises VecapError for a sample without an image or a class."""
    pictures: list[ImageFile] = []
    labels: list[int] = []
    for sample, picture in _pictures(tars):
        labels += number_labels([(sample.name, sample.text("cls").strip())], classes, sample.tar)
        pictures.append(picture)
    return ZeroShotSet(source.name, tuple(pictures), tuple(labels), tuple(classes), tuple(templates))


def _said(sample: _Sample, key: str) -> list[str]:
    """Return the caption, or the captions, under *key* of the sample's JSON."""
    try:
        value = json.loads(sample.text("json"))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise PermanentError(f"{sample.tar}: the .json of {sample.name} has no {key}; correct `caption_key`") from error
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _pictures(tars: Sequence[Path]) -> Iterator[tuple[_Sample, ImageFile]]:
    for tar in tars:
        for sample in _samples(tar):
            if sample.picture is None:
                raise PermanentError(f"{tar}: {sample.name} has no image ({', '.join(_TAR_IMAGES)}); make it again")
            yield sample, sample.picture


def _samples(tar: Path) -> Iterator[_Sample]:
    """Give the samples of the tar in order."""
    try:
        with tar.open("rb") as stream:
            for key, members in read_groups(stream, str(tar)):
                sample = _Sample(key, tar)
                for member in members:
                    if member.kind in _TAR_IMAGES:
                        sample.picture = ImageFile(f"{key}.{member.kind}", tar, member.offset, member.size)
                    elif member.kind in _TEXTS:
                        sample.texts[member.kind] = member.read(stream).decode("utf-8")
                yield sample
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"{tar} cannot be read as a tar of samples: {error}; restore it") from error
