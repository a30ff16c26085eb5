"""Images with classes: a folder a class, or a table; and the files that name classes and templates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from vecap_tasks.config import ClassFolders, ClassTable
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.sets.kinds import ZeroShotSet
from vecap_tasks.evaluate.sets.picture import Picture, find_pictures
from vecap_tasks.evaluate.sets.text import read_columns, read_lines, read_text

_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


def read_names(file: Path, key: str | None) -> tuple[str, ...]:
    """Return the names in *file*: a `.json` with a list, or with an object of lists of which *key* is taken, or lines.

    Raises VecapError for a file of another form and for a key that is not in it.
    """
    if file.suffix != ".json":
        return tuple(read_lines(file))
    try:
        body = json.loads(read_text(file))
    except ValueError as error:
        raise VecapError(f"{file} is not valid JSON: {error}") from error
    if isinstance(body, dict):
        if key not in body:
            raise VecapError(f"{file} has no list {key!r}; set `key` to one of {', '.join(sorted(body))}")
        body = body[key]
    if not isinstance(body, list) or not body or not all(isinstance(name, str) for name in body):
        raise VecapError(f"{file} holds no list of names; write a JSON list of strings, or one a line")
    return tuple(body)


def read_templates(file: Path, key: str | None) -> tuple[str, ...]:
    """Return the templates in *file*, with {} for the name where they are written with {c}, as CLIP_benchmark's."""
    templates = tuple(template.replace("{c}", "{}") for template in read_names(file, key))
    for template in templates:
        if template.count("{}") != 1:
            raise VecapError(f"{file}: {template!r} has not one {{}}; put it where the name stands")
    return templates


def read_class_folders(
    source: ClassFolders, images: Path, classes: Sequence[str], templates: Sequence[str]
) -> ZeroShotSet:
    """Read a tree with a folder a class. Where every folder has the name of a class, that is what it is; else the
    folders in the order of their names are the classes in theirs, as torchvision's ImageFolder numbers them.

    Raises VecapError where the numbers of folders and classes differ, or a folder has no image.
    """
    if not images.is_dir():
        raise VecapError(f"{source.name}: there is no folder of images at {images}; correct `images`")
    folders = sorted(path for path in images.iterdir() if path.is_dir())
    numbers = {name: number for number, name in enumerate(classes)}
    if not {folder.name for folder in folders} <= numbers.keys():
        if len(folders) != len(classes):
            raise VecapError(
                f"{source.name}: {images} has {len(folders):,} folders, and there are {len(classes):,} names of "
                "classes; give the names in the order of the folders, or name the folders as the classes"
            )
        numbers = {folder.name: number for number, folder in enumerate(folders)}
    pictures: list[Picture] = []
    labels: list[int] = []
    for folder in folders:
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _IMAGES)
        if not files:
            raise VecapError(f"{source.name}: {folder} has no images; restore them, or remove the folder")
        pictures += [Picture(file.relative_to(images).as_posix(), file) for file in files]
        labels += [numbers[folder.name]] * len(files)
    if not pictures:
        raise VecapError(f"{source.name}: {images} has no folders of images; correct `images`")
    return ZeroShotSet(source.name, tuple(pictures), tuple(labels), tuple(classes), tuple(templates))


def read_class_table(
    source: ClassTable, path: Path, images: Path, classes: Sequence[str], templates: Sequence[str]
) -> ZeroShotSet:
    """Read a table of images and classes, by name or by number. Raises VecapError for a class that there is not."""
    rows = read_columns(path, source.image_column, source.label_column, separator=source.separator)
    labels = number_labels(rows, classes, path)
    pictures = find_pictures([image for image, _ in rows], images, f"{source.name} of {path}")
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
            raise VecapError(f"{path}: {image} has the label {label!r}, which the {len(classes)} classes have not")
        if label in twice:
            raise VecapError(f"{path}: {image} has the label {label!r}, which two classes have; give their numbers")
        labels.append(number)
    return tuple(labels)
