"""Metadata of a decoded image, for processes that do not import the decoders."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Metadata of a decoded image: sizes in pixels, after EXIF rotation."""

    width: int
    height: int
    original_width: int
    original_height: int
    original_format: str
    exif: str  # JSON object of strings
    phash: str | None  # 16 hex digits, None for flat images
