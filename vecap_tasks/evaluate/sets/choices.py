"""Compositional sets: SugarCrepe, ARO, Winoground, and a general JSON Lines format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vecap_tasks.config import Aro, ChoiceLines, SugarCrepe, Winoground
from vecap_tasks.core.json_reader import parse_json
from vecap_tasks.errors import PermanentError
from vecap_tasks.evaluate.sets.captions import (
    is_unicode,
    json_lines,
    line_image,
    line_text,
    line_value,
    read_lines,
    read_text,
)
from vecap_tasks.evaluate.sets.types import Choice, ChoiceSet, ImageFile, find_images

# Relations that ARO's evaluation leaves out, because both orders are true (its notebook for VG-Relation).
_SYMMETRIC = Path(__file__).with_name("aro_symmetric_relations.txt")
_MIN_ATTRIBUTES = 25  # questions of a pair of attributes (ARO's evaluation)
_BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


class _Builder:
    """Collects the questions of a set; equal images and captions are stored once."""

    def __init__(self) -> None:
        self._images: dict[tuple[str, tuple[int, int, int, int] | None], int] = {}
        self._captions: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._questions: list[Choice] = []

    def add(
        self,
        images: Iterable[str],
        captions: Iterable[str],
        group: str = "",
        box: tuple[int, int, int, int] | None = None,
    ) -> None:
        self._questions.append(
            Choice(
                tuple(self._images.setdefault((name, box), len(self._images)) for name in images),
                tuple(self._captions.setdefault(caption, len(self._captions)) for caption in captions),
                self._groups.setdefault(group, len(self._groups)),
            )
        )

    def build(self, name: str, images: Path, path: Path) -> ChoiceSet:
        """Return the set. Raises VecapError if it is empty, or if images are missing in the folder *images*."""
        if not self._questions:
            raise PermanentError(f"{path} has no questions; recreate the evaluation set")
        files = find_images([image for image, _ in self._images], images, f"{name} of {path}")
        boxed = tuple(ImageFile(f.name, f.file, box=box) for f, (_, box) in zip(files, self._images, strict=True))
        return ChoiceSet(name, boxed, tuple(self._captions), tuple(self._questions), tuple(self._groups))


def read_sugarcrepe(source: SugarCrepe, path: Path, images: Path) -> ChoiceSet:
    """Read the JSON files of SugarCrepe; the groups are the names of the files.

    Raises VecapError for another format and for missing images.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise PermanentError(f"{source.name}: {path} has no .json files; correct `path`")
    builder = _Builder()
    for file in files:
        body = _json(file)
        items = body.values() if isinstance(body, dict) else body
        if not isinstance(body, dict | list):
            raise PermanentError(f"{file} is not a file of SugarCrepe; use e.g. add_att.json")
        for number, item in enumerate(items, start=1):
            texts = _texts(file, number, item, ("filename", "caption", "negative_caption"))
            builder.add([texts[0]], texts[1:], file.stem)
    return builder.build(source.name, images, path)


def read_aro(source: Aro, path: Path, images: Path) -> ChoiceSet:
    """Read VG-Relation (groups are relations) or VG-Attribution (groups are pairs of attributes).

    Like the authors' evaluation, it leaves out symmetric relations and rare pairs of attributes, unless `all_groups`.
    Raises VecapError for another format and for missing images.
    """
    body = _json(path)
    if not isinstance(body, list) or not body:
        raise PermanentError(f"{path} is not a file of ARO; use e.g. visual_genome_relation.json")
    symmetric = frozenset() if source.all_groups else frozenset(read_lines(_SYMMETRIC))
    regions: dict[str, list[tuple[str, list[str], tuple[int, int, int, int]]]] = {}
    for number, item in enumerate(body, start=1):
        image, *captions = _texts(path, number, item, ("image_path", "true_caption", "false_caption"))
        sizes = [item.get(key) for key in _BOX]
        if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
            raise PermanentError(f"{path}: item {number} has no {', '.join(_BOX)} in pixels; use a file of ARO")
        left, top, width, height = sizes
        attributes = item.get("attributes")
        group = "_".join(map(str, attributes)) if isinstance(attributes, list) else str(item.get("relation_name", ""))
        if group not in symmetric:
            regions.setdefault(group, []).append((image, captions, (left, top, left + width, top + height)))
    builder = _Builder()
    fewest = _MIN_ATTRIBUTES if "attributes" in body[0] and not source.all_groups else 1
    for group, found in regions.items():
        for image, captions, box in found if len(found) >= fewest else ():
            builder.add([image], captions, group, box)
    return builder.build(source.name, images, path)


def read_choice_lines(source: ChoiceLines, path: Path, images: Path) -> ChoiceSet:
    """Read a JSON Lines file. Raises VecapError for a line with fewer than two captions, and for missing images."""
    builder = _Builder()
    for number, line in json_lines(path):
        captions = line_value(line, source.captions_key)
        if (
            not isinstance(captions, list)
            or len(captions) < 2
            or not all(isinstance(caption, str) and caption.strip() and is_unicode(caption) for caption in captions)
        ):
            raise PermanentError(
                f"{path}: line {number} has no list of two or more captions at {source.captions_key}; correct "
                "`captions_key` or the line"
            )
        group = "" if source.group_key is None else line_text(path, number, line, source.group_key)
        builder.add([line_image(path, number, line, source.image_key, source.image_suffix)], captions, group)
    return builder.build(source.name, images, path)


def read_winoground(source: Winoground, path: Path, images: Path) -> ChoiceSet:
    """Read Winoground's `examples.jsonl`; the groups are its `collapsed_tag`, if it has one.

    Raises VecapError for a line without two images and captions, and for missing images.
    """
    builder = _Builder()
    for number, line in json_lines(path):
        names = [line_image(path, number, line, key, source.image_suffix) for key in ("image_0", "image_1")]
        captions = [line_text(path, number, line, key) for key in ("caption_0", "caption_1")]
        builder.add(names, captions, str(line.get("collapsed_tag", "")))
    return builder.build(source.name, images, path)


def _json(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise PermanentError(f"{path} is not valid JSON: {error}; correct it") from error


def _texts(path: Path, number: int, item: Any, keys: tuple[str, ...]) -> list[str]:
    """Return the texts at *keys* of an item. Raises VecapError if one is missing."""
    texts = []
    for key in keys:
        value = item.get(key) if isinstance(item, dict) else None
        if not isinstance(value, str) or not value.strip() or not is_unicode(value):
            raise PermanentError(f"{path}: item {number} has no text {key}; use the file as published")
        texts.append(value)
    return texts
