"""Kinds of evaluation sets (images with captions, images with classes) and their images."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vecap_tasks.errors import PermanentError, VecapError


@dataclass(frozen=True, slots=True)
class ImageFile:
    """`name` is what the set calls it; it is all of *file*, or `size` bytes of it from `offset` on."""

    name: str
    file: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Return the bytes as they lie. Raises VecapError naming the file where it cannot be read."""
        try:
            with self.file.open("rb") as stream:
                stream.seek(self.offset)
                return stream.read(-1 if self.size is None else self.size)
        except OSError as error:
            raise VecapError(f"{self.file} of the evaluation set cannot be read: {error.strerror}") from error

    def load(self) -> Image.Image:
        """Return the picture as RGB. Raises VecapError naming a file that is no image."""
        try:
            with Image.open(io.BytesIO(self.read())) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            where = self.file if self.size is None else f"{self.name} in {self.file}"
            raise PermanentError(
                f"{where} of the evaluation set is no image that can be read; restore it, or make the set again"
            ) from error


def find_images(names: Sequence[str], folder: Path, what: str) -> tuple[ImageFile, ...]:
    """Return the images *names* under *folder*. Raises VecapError, counting those that are missing; *what* is read."""
    if not folder.is_dir():
        raise PermanentError(f"{what}: there is no folder of images at {folder}; correct `images`")
    found = tuple(ImageFile(name, folder / name) for name in names)
    missing = [picture.name for picture in found if not picture.file.is_file()]
    if missing:
        raise PermanentError(
            f"{what}: {len(missing):,} of {len(found):,} images are missing in {folder}, the first is {missing[0]}; "
            "correct `images`, or restore them"
        )
    return found


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """`captions[i]` describes `pictures[caption_of[i]]`; every picture has a caption."""

    name: str
    images: tuple[ImageFile, ...]
    captions: tuple[str, ...]
    caption_of: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ZeroShotSet:
    """`labels[i]` is the class of `pictures[i]`, a number in `classes`; each of `templates` has one {}."""

    name: str
    images: tuple[ImageFile, ...]
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
