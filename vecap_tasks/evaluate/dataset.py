"""The evaluation set: a folder with images, their captions, and labels for zero-shot classification.

    captions.csv    header image,caption; an image may stand in several rows, one for each of its captions
    labels.csv      header image,label; a label is a line of classes.txt
    classes.txt     the names of the classes, one a line
    templates.txt   sentences with {} in the place of the name, one a line

Images are named relative to the folder.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

from vecap_tasks.dataset.manifest import digest
from vecap_tasks.errors import VecapError

_FILES = ("captions.csv", "labels.csv", "classes.txt", "templates.txt")


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """`captions[i]` describes `images[caption_of[i]]`; `labels[i]` is the class of `images[label_of[i]]`."""

    folder: Path
    images: tuple[str, ...]
    captions: tuple[str, ...]
    caption_of: tuple[int, ...]
    labels: tuple[int, ...]
    label_of: tuple[int, ...]
    classes: tuple[str, ...]
    templates: tuple[str, ...]


def read_evaluation_set(folder: Path) -> EvaluationSet:
    """Read the set in *folder*. Raises VecapError naming the file and line for anything that cannot be used."""
    _check(folder)
    classes = _lines(folder / "classes.txt")
    templates = _lines(folder / "templates.txt")
    for template in templates:
        if template.count("{}") != 1:
            raise VecapError(f"{folder / 'templates.txt'}: {template!r} has not one {{}}; put it where the name stands")
    if len(set(classes)) != len(classes):
        raise VecapError(f"{folder / 'classes.txt'} names a class twice; name each once")
    numbers: dict[str, int] = {}
    captions: list[str] = []
    caption_of: list[int] = []
    for image, caption in _rows(folder / "captions.csv", "caption"):
        captions.append(caption)
        caption_of.append(numbers.setdefault(image, len(numbers)))
    labels: list[int] = []
    label_of: list[int] = []
    known = {name: number for number, name in enumerate(classes)}
    for image, label in _rows(folder / "labels.csv", "label"):
        if label not in known:
            raise VecapError(f"{folder / 'labels.csv'}: {image} has the label {label!r}, which classes.txt has not")
        labels.append(known[label])
        label_of.append(numbers.setdefault(image, len(numbers)))
    for image in numbers:
        if not (folder / image).is_file():
            raise VecapError(f"{folder}: there is no image {image}, which the tables name; make the set again")
    return EvaluationSet(
        folder,
        tuple(numbers),
        tuple(captions),
        tuple(caption_of),
        tuple(labels),
        tuple(label_of),
        tuple(classes),
        tuple(templates),
    )


def evaluation_digest(folder: Path) -> str:
    """Return the sha256 over the tables and the images that they name. Raises VecapError as reading does."""
    found = read_evaluation_set(folder)
    names = (*_FILES, *found.images)
    return digest({name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names})


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise VecapError(f"there is no evaluation set at {folder}; make it, or correct evaluate.dataset")
    for name in _FILES:
        if not (folder / name).is_file():
            raise VecapError(f"the evaluation set {folder} has no {name}; make it again, or correct evaluate.dataset")


def _lines(file: Path) -> list[str]:
    lines = [line.strip() for line in _text(file).splitlines() if line.strip()]
    if not lines:
        raise VecapError(f"{file} is empty; write one a line")
    return lines


def _rows(file: Path, column: str) -> list[tuple[str, str]]:
    reader = csv.DictReader(_text(file).splitlines(keepends=True))
    if not {"image", column} <= set(reader.fieldnames or ()):
        raise VecapError(f"{file} has no columns image and {column}; its first line must name them")
    rows = [(row["image"], row[column]) for row in reader]
    for number, row in enumerate(rows, start=2):
        if not row[0] or not row[1]:
            raise VecapError(f"{file}: row {number} has no image or no {column}; fill it or take it out")
    if not rows:
        raise VecapError(f"{file} has no rows; make the evaluation set again")
    return rows


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise VecapError(f"{file} is not UTF-8 text; save it as UTF-8") from error
