"""Classification sets (class folders, tables), sets of linear probes, and CLIP_benchmark's webdataset tars."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vecap_tasks.config import CaptionTars, ClassFolders, ClassTable, ClassTars, ProbeFolders, ProbeTars
from vecap_tasks.core.json_reader import parse_json
from vecap_tasks.core.tar import MAX_TEXT, read_groups
from vecap_tasks.errors import PermanentError
from vecap_tasks.evaluate.sets.captions import is_unicode, read_columns, read_lines, read_text, split_lines
from vecap_tasks.evaluate.sets.types import (
    IMAGE_SUFFIXES,
    ImageFile,
    ProbeSet,
    RetrievalSet,
    ZeroShotSet,
    find_images,
)

_TAR_IMAGE_KINDS = ("jpg", "png", "jpeg", "webp")  # in open_clip's order
_TAR_TEXT_KINDS = ("txt", "json", "cls")
_INDEX = re.compile(r"[0-9]{1,9}")


def read_names(file: Path, key: str | None) -> tuple[str, ...]:
    """Return the names in *file*: the lines of a text file, a JSON list, or the list *key* of a JSON object.

    Raises VecapError for another format and for an unknown key.
    """
    if file.suffix != ".json":
        return tuple(read_lines(file))
    try:
        body = parse_json(read_text(file))
    except ValueError as error:
        raise PermanentError(f"{file} is not valid JSON: {error}; correct it") from error
    if isinstance(body, dict):
        if key not in body:
            raise PermanentError(f"{file} has no list {key!r}; set `key` to one of {', '.join(sorted(body)[:20])}")
        body = body[key]
    if not isinstance(body, list) or not body or not all(isinstance(name, str) and is_unicode(name) for name in body):
        raise PermanentError(f"{file} is not a list of names; write a JSON list of strings, or one name per line")
    return tuple(body)


def read_templates(file: Path, key: str | None) -> tuple[str, ...]:
    """Return the prompt templates in *file*, with CLIP_benchmark's {c} replaced by {}."""
    templates = tuple(template.replace("{c}", "{}") for template in read_names(file, key))
    for template in templates:
        if template.count("{}") != 1:
            raise PermanentError(f"{file}: {template[:200]!r} must have exactly one {{}} for the class name")
    return templates


def read_class_folders(
    source: ClassFolders,
    images: Path,
    classes: Sequence[str],
    templates: Sequence[str],
    folder_names: Sequence[str] | None = None,
) -> ZeroShotSet:
    """Read one folder per class. If all folder names are class names, they are the labels; otherwise the sorted folders
    map to the classes in order, as in torchvision's ImageFolder; numbers are sorted by value (ImageNet-V2).

    With *folder_names*, the names of the folders in the order of *classes*, only the classes that have a folder are
    used. Raises VecapError if the numbers of folders and classes differ, or a folder has no images.
    """
    folders = _class_folders(source.name, images)
    numbers = {name: number for number, name in enumerate(classes)}
    if folder_names is not None:
        if len(folder_names) != len(classes):
            raise PermanentError(
                f"{source.name}: `folders` has {len(folder_names):,} names for {len(classes):,} classes; list one for "
                "each class, in the same order"
            )
        class_of = dict(zip(folder_names, classes, strict=True))
        if unknown := [folder.name for folder in folders if folder.name not in class_of]:
            raise PermanentError(f"{source.name}: {images}/{unknown[0]} is not in `folders`; correct one of them")
        present = {folder.name for folder in folders}
        classes = [class_of[name] for name in folder_names if name in present]
        numbers = {name: number for number, name in enumerate(name for name in folder_names if name in present)}
    elif not {folder.name for folder in folders} <= numbers.keys():
        if len(folders) != len(classes):
            raise PermanentError(
                f"{source.name}: {images} has {len(folders):,} folders for {len(classes):,} class names; "
                "list the names in the order of the folders, or name the folders as the classes"
            )
        numbers = {folder.name: number for number, folder in enumerate(folders)}
    image_files, labels = _images_of(source.name, images, folders, numbers)
    return ZeroShotSet(source.name, image_files, labels, tuple(classes), tuple(templates))


def _class_folders(name: str, images: Path) -> list[Path]:
    if not images.is_dir():
        raise PermanentError(f"{name}: image folder {images} does not exist; correct `images`")
    folders = sorted(path for path in images.iterdir() if path.is_dir())
    if all(_INDEX.fullmatch(folder.name) for folder in folders):
        folders.sort(key=lambda folder: int(folder.name))  # class indices, as in ImageNet-V2
    if not folders:
        raise PermanentError(f"{name}: {images} has no class folders; correct `images`")
    return folders


def _images_of(
    name: str, images: Path, folders: Sequence[Path], numbers: Mapping[str, int]
) -> tuple[tuple[ImageFile, ...], tuple[int, ...]]:
    """Return the images in *folders* of *images*, and the *numbers* of their folders."""
    image_files: list[ImageFile] = []
    labels: list[int] = []
    for folder in folders:
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise PermanentError(f"{name}: {folder} has no images; restore them or delete the folder")
        image_files += [ImageFile(file.relative_to(images).as_posix(), file) for file in files]
        labels += [numbers[folder.name]] * len(files)
    return tuple(image_files), tuple(labels)


def read_probe_folders(source: ProbeFolders, train: Path, test: Path) -> ProbeSet:
    """Read the class folders of both parts. Raises VecapError if a test folder has no training folder."""
    trained, tested = _class_folders(source.name, train), _class_folders(source.name, test)
    numbers = {folder.name: number for number, folder in enumerate(trained)}
    if unknown := [folder for folder in tested if folder.name not in numbers]:
        raise PermanentError(f"{source.name}: {unknown[0]} has no training images in {train}; correct `train`")
    parts = [_images_of(source.name, *part, numbers) for part in ((train, trained), (test, tested))]
    (first, labels), (second, more) = parts
    return ProbeSet(source.name, first + second, labels + more, len(first), tuple(numbers))


def read_probe_tars(source: ProbeTars, train: Sequence[Path], test: Sequence[Path]) -> ProbeSet:
    """Read labels and image locations of both parts. Raises VecapError for a sample without an image or index."""
    images: list[ImageFile] = []
    labels: list[int] = []
    count = 0
    for part in (train, test):
        count = len(images)
        for sample, image in _samples_with_image(part):
            label = sample.text("cls").strip()
            if not _INDEX.fullmatch(label):
                raise PermanentError(f"{sample.tar}: {sample.name} has the class {label[:100]!r}, which is no index")
            images.append(image)
            labels.append(int(label))
    classes = tuple(str(number) for number in range(max(labels) + 1))
    return ProbeSet(source.name, tuple(images), tuple(labels), count, classes)


def read_class_table(
    source: ClassTable, path: Path, images: Path, classes: Sequence[str], templates: Sequence[str]
) -> ZeroShotSet:
    """Read a table of images with class names or indices. Raises VecapError for an unknown class."""
    rows = read_columns(path, source.image_column, source.label_column, separator=source.separator)
    labels = label_indices(rows, classes, path)
    files = find_images([image for image, _ in rows], images, f"{source.name} of {path}")
    return ZeroShotSet(source.name, files, labels, tuple(classes), tuple(templates))


def label_indices(rows: Sequence[tuple[str, str]], classes: Sequence[str], path: Path) -> tuple[int, ...]:
    """Return the class indices of *rows* (image, label); class names take precedence over numbers.

    Raises VecapError for a label that is neither a name nor an index of *classes*, and for an ambiguous name.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    ambiguous = {name for name in numbers if list(classes).count(name) > 1} if len(numbers) < len(classes) else set()
    labels = []
    for image, label in rows:
        number = numbers.get(label)
        if number is None and _INDEX.fullmatch(label) and int(label) < len(classes):
            number = int(label)
        if number is None:
            raise PermanentError(
                f"{path}: {image} has the label {label[:100]!r}, which is not one of {len(classes)} classes"
            )
        if label in ambiguous:
            raise PermanentError(f"{path}: {image} has the label {label[:100]!r} of several classes; use class indices")
        labels.append(number)
    return tuple(labels)


@dataclass(slots=True)
class _Sample:
    """The tar members of one key: the image, if any, and texts by extension."""

    name: str
    tar: Path
    image: ImageFile | None = None
    texts: dict[str, str] = field(default_factory=dict)

    def text(self, kind: str) -> str:
        """Return the text *kind*. Raises VecapError if it is missing."""
        if kind not in self.texts:
            raise PermanentError(f"{self.tar}: {self.name} has no .{kind}; recreate the tar")
        return self.texts[kind]


def read_caption_tars(source: CaptionTars, tars: Sequence[Path]) -> RetrievalSet:
    """Read captions and image locations. Raises VecapError for a sample without an image or caption."""
    images: list[ImageFile] = []
    captions: list[str] = []
    owners: list[int] = []
    for sample, image in _samples_with_image(tars):
        key = source.caption_key
        texts = split_lines(sample.text("txt")) if key is None else _json_captions(sample, key)
        kept = [caption.strip() for caption in texts if caption.strip()][: source.captions_per_image]
        if not kept:
            raise PermanentError(f"{sample.tar}: {sample.name} has no caption; recreate the tar")
        owners += [len(images)] * len(kept)
        captions += kept
        images.append(image)
    return RetrievalSet(source.name, tuple(images), tuple(captions), tuple(owners))


def read_class_tars(
    source: ClassTars, tars: Sequence[Path], classes: Sequence[str], templates: Sequence[str]
) -> ZeroShotSet:
    """Read labels and image locations. Raises VecapError for a sample without an image or class."""
    images: list[ImageFile] = []
    labels: list[int] = []
    for sample, image in _samples_with_image(tars):
        label = sample.text("cls").strip()
        if _INDEX.fullmatch(label) and int(label) < len(classes):  # an index, even if classes are named by numbers
            labels.append(int(label))
        else:
            labels += label_indices([(sample.name, label)], classes, sample.tar)
        images.append(image)
    return ZeroShotSet(source.name, tuple(images), tuple(labels), tuple(classes), tuple(templates))


def _json_captions(sample: _Sample, key: str) -> list[str]:
    """Return the caption or captions at *key* of the sample's JSON."""
    try:
        value = parse_json(sample.text("json"))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise PermanentError(f"{sample.tar}: the .json of {sample.name} has no {key}; correct `caption_key`") from error
    captions = value if isinstance(value, list) else [value]
    if not all(isinstance(caption, str) and is_unicode(caption) for caption in captions):
        raise PermanentError(
            f"{sample.tar}: {key} in the .json of {sample.name} is not text or a list of texts; correct `caption_key`"
        )
    return captions


def _samples_with_image(tars: Sequence[Path]) -> Iterator[tuple[_Sample, ImageFile]]:
    for tar in tars:
        for sample in list(_samples(tar)):  # an error of the whole tar comes before that of a sample
            if sample.image is None:
                kinds = ", ".join(_TAR_IMAGE_KINDS)
                raise PermanentError(f"{tar}: {sample.name} has no image ({kinds}); recreate the tar")
            yield sample, sample.image


def _samples(tar: Path) -> Iterator[_Sample]:
    """Yield the samples of the tar in order."""
    try:
        with tar.open("rb") as stream:
            for key, members in read_groups(stream, str(tar)):
                sample = _Sample(key, tar)
                images: dict[str, ImageFile] = {}
                for member in members:
                    if member.kind in _TAR_IMAGE_KINDS:
                        images[member.kind] = ImageFile(f"{key}.{member.kind}", tar, member.offset, member.size)
                    elif member.kind in _TAR_TEXT_KINDS:
                        if member.size > MAX_TEXT:
                            raise PermanentError(
                                f"{tar}: {key}.{member.kind} has {member.size:,} bytes; recreate the tar"
                            )
                        sample.texts[member.kind] = member.read(stream).decode("utf-8")
                sample.image = next((images[kind] for kind in _TAR_IMAGE_KINDS if kind in images), None)
                yield sample
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"{tar} cannot be read as a webdataset tar: {error}; restore it") from error
