"""The two kinds of sets: images with captions, and images with classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vecap_tasks.evaluate.sets.picture import Picture


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """`captions[i]` describes `pictures[caption_of[i]]`; every picture has a caption."""

    name: str
    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    caption_of: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ZeroShotSet:
    """`labels[i]` is the class of `pictures[i]`, a number in `classes`; each of `templates` has one {}."""

    name: str
    pictures: tuple[Picture, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    templates: tuple[str, ...]


def group_captions(rows: Iterable[tuple[str, str]], most: int | None) -> tuple[list[str], list[str], list[int]]:
    """Return the images of *rows* (image, caption) as they first appear, the captions, and each caption's image.

    Of an image's captions the first *most* are kept, None keeps all; captions stand in the order of their images.
    """
    by_image: dict[str, list[str]] = {}
    for image, caption in rows:
        by_image.setdefault(image, []).append(caption)
    captions: list[str] = []
    owners: list[int] = []
    for number, of_image in enumerate(by_image.values()):
        kept = of_image[:most]
        captions += kept
        owners += [number] * len(kept)
    return list(by_image), captions, owners
