"""Results of decoding, for processes that do not import the decoders."""

from __future__ import annotations

from dataclasses import dataclass

from vecap_tasks.errors import Failure


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Metadata of a decoded image: sizes in pixels, after EXIF rotation."""

    width: int
    height: int
    original_width: int
    original_height: int
    original_format: str
    exif: str  # JSON object of strings
    jpeg_sha256: str  # of the JPEG to store, 64 hex digits
    phash: str | None  # 16 hex digits, None for flat images


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """The result for one body: image metadata and JPEG, or a failure. `sha256` is of the body, 64 hex digits."""

    sha256: str
    image: DecodedImage | None
    jpeg: bytes
    failure: Failure | None
