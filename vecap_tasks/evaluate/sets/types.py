"""Evaluation set types (images with captions, with classes, with choices of captions) and image files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vecap_tasks.errors import PermanentError, VecapError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
# Of an image. Memory grows with pixels and, because Pillow has a pointer for each row, with the height.
_MAX_SIDE, _MAX_PIXELS = 65_500, 89_000_000


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image named `name` in its set: all of `file`, or `size` bytes of it at `offset`.

    `box` is the region that is used, in pixels: left, upper, right and lower; None: all.
    """

    name: str
    file: Path
    offset: int = 0
    size: int | None = None
    box: tuple[int, int, int, int] | None = None

    def read(self) -> bytes:
        """Return the encoded bytes. Raises VecapError if the file cannot be read."""
        try:
            with self.file.open("rb") as stream:
                stream.seek(self.offset)
                return stream.read(-1 if self.size is None else self.size)
        except OSError as error:
            raise VecapError(f"cannot read {self.file} of the evaluation set: {error.strerror}") from error

    def load(self) -> Image.Image:
        """Return the image as RGB. Raises VecapError if it cannot be decoded or is too large."""
        where = self.file if self.size is None else f"{self.name} in {self.file}"
        try:
            with Image.open(io.BytesIO(self.read())) as image:
                width, height = image.size
                if max(width, height) > _MAX_SIDE or width * height > _MAX_PIXELS:
                    raise PermanentError(f"{where} of the evaluation set has {width}x{height} pixels; reduce its size")
                if image.mode == "P" and image.palette is None:
                    raise ValueError("the palette is missing")  # Pillow reads it as black
                found = image.convert("RGB")
                return found if self.box is None else found.crop(self.box)
        except VecapError:
            raise
        except Exception as error:  # Pillow raises errors of many types on corrupt files
            raise PermanentError(
                f"cannot decode {where} of the evaluation set; restore it, or recreate the set"
            ) from error


def find_images(names: Sequence[str], folder: Path, what: str) -> tuple[ImageFile, ...]:
    """Return the images *names* in *folder*. Raises VecapError if any are missing; *what* names the set in messages."""
    if not folder.is_dir():
        raise PermanentError(f"{what}: image folder {folder} does not exist; correct `images`")
    images = tuple(ImageFile(name, folder / name) for name in names)
    missing = [image.name[:200] for image in images if not _is_file(image.file)]
    if missing:
        raise PermanentError(
            f"{what}: {len(missing):,} of {len(images):,} images are missing in {folder}, such as {missing[0]}; "
            "correct `images`, or restore them"
        )
    return images


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """`captions[i]` describes `images[caption_of[i]]`; each image has a caption."""

    name: str
    images: tuple[ImageFile, ...]
    captions: tuple[str, ...]
    caption_of: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ZeroShotSet:
    """`labels[i]` is the index in `classes` of the class of `images[i]`; each template has one {}."""

    name: str
    images: tuple[ImageFile, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    templates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A question: `images` and `captions` are indices in the set, `group` is that of the question.

    Of one image, the first caption is the right one. Of two images (Winoground), each has the caption in its position.
    """

    images: tuple[int, ...]
    captions: tuple[int, ...]
    group: int = 0


@dataclass(frozen=True, slots=True)
class ChoiceSet:
    """Questions about the right caption of an image among similar ones. `groups` has the names of the groups."""

    name: str
    images: tuple[ImageFile, ...]
    captions: tuple[str, ...]
    questions: tuple[Choice, ...]
    groups: tuple[str, ...]

    @property
    def paired(self) -> bool:
        """Whether each question has two images."""
        return len(self.questions[0].images) == 2


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """Images with classes for a linear probe: the first `train` of `images` and `labels` train it, the others test."""

    name: str
    images: tuple[ImageFile, ...]
    labels: tuple[int, ...]
    train: int
    classes: tuple[str, ...]


def group_captions(rows: Iterable[tuple[str, str]], limit: int | None) -> tuple[list[str], list[str], list[int]]:
    """Return the images of *rows* (image, caption) by first appearance, the captions, and each caption's image index.

    Captions are in the order of their images; only the first *limit* captions of an image are kept (None: all).
    """
    by_image: dict[str, list[str]] = {}
    for image, caption in rows:
        by_image.setdefault(image, []).append(caption)
    captions: list[str] = []
    owners: list[int] = []
    for number, image_captions in enumerate(by_image.values()):
        kept = image_captions[:limit]
        captions += kept
        owners += [number] * len(kept)
    return list(by_image), captions, owners
