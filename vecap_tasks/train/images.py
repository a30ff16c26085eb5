"""The images of an index, decoded: from memory where they fit, else from where they lie whenever they are asked for.

An image of someone else's that cannot be decoded is replaced by the next of its source that can, with that one's text:
the same in every run, whatever is kept in memory. One of our own is damage.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vecap_tasks.config import PreprocessWay
from vecap_tasks.errors import DamagedError
from vecap_tasks.preprocess import shrink
from vecap_tasks.train.index import Index

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]  # [n, size, size, 3]
Decode = Callable[[bytes], Pixels | None]
_DECODED_AT_ONCE = 256


class Decoder:
    """Callable on the bytes of an image: uint8 [size, size, 3], or None for what is no image that can be read."""

    def __init__(self, size: int, way: PreprocessWay) -> None:
        self.size = size
        self._way = way

    def __call__(self, data: bytes) -> Pixels | None:
        try:
            with Image.open(io.BytesIO(data)) as image:
                return shrink(image, self.size, self._way)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return None


class Images(Protocol):
    """Images by their number in the index."""

    def take(self, numbers: NDArray[np.int64]) -> tuple[Pixels, NDArray[np.int64]]:
        """Return the images *numbers*, uint8 [n, size, size, 3], and the numbers of those that they are."""


class ShardImages:
    """Images read and decoded from the shards whenever they are asked for, on *threads* threads."""

    def __init__(self, index: Index, decoder: Decoder, threads: int) -> None:
        self._index = index
        self._decoder = decoder
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._unreadable: set[int] = set()

    def take(self, numbers: NDArray[np.int64]) -> tuple[Pixels, NDArray[np.int64]]:
        size = self._decoder.size
        pixels = np.empty((len(numbers), size, size, 3), np.uint8)

        def put(row: int) -> int:
            pixels[row], shown = self._find(int(numbers[row]))
            return shown

        return pixels, np.fromiter(self._pool.map(put, range(len(numbers))), np.int64, len(numbers))

    def _find(self, number: int) -> tuple[Pixels, int]:
        """Return the first image from *number* on, around its source, that can be decoded, and its number."""
        place = int(np.searchsorted(self._index.bounds, number, side="right")) - 1
        first, end = self._index.bounds[place], self._index.bounds[place + 1]
        source = self._index.sources[place]
        for step in range(end - first):
            tried = int(first + (number - first + step) % (end - first))
            shard = self._index.shards[self._index.shard[tried]]
            pixels = self._decoder(shard.read(int(self._index.offset[tried]), int(self._index.size[tried])))
            if pixels is not None:
                return pixels, tried
            if source.own:
                raise DamagedError(f"{shard.name} holds an image that cannot be read; run `vecap verify`")
            if tried not in self._unreadable:
                self._unreadable.add(tried)
                log.warning("%s: an image at byte %d cannot be decoded", shard.name, self._index.offset[tried])
        raise DamagedError(f"{source.name} holds no image that can be read; take it out of the mixture")


class MemoryImages:
    """All images decoded at once and kept."""

    def __init__(self, images: ShardImages, count: int, size: int) -> None:
        self._pixels = np.empty((count, size, size, 3), dtype=np.uint8)
        self._shown = np.empty(count, np.int64)
        for start in range(0, count, _DECODED_AT_ONCE):
            numbers = np.arange(start, min(start + _DECODED_AT_ONCE, count))
            self._pixels[numbers], self._shown[numbers] = images.take(numbers)

    def take(self, numbers: NDArray[np.int64]) -> tuple[Pixels, NDArray[np.int64]]:
        return self._pixels[numbers], self._shown[numbers]


def open_images(index: Index, decoder: Decoder, *, cache_bytes: int, threads: int) -> Images:
    """Return the images of *index*: kept in memory where they fit into *cache_bytes*, else read for each batch."""
    images = ShardImages(index, decoder, threads)
    if len(index) * decoder.size * decoder.size * 3 > cache_bytes:
        return images
    return MemoryImages(images, len(index), decoder.size)
