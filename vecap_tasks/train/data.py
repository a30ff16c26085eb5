"""What a run is trained on: the samples of the training shards, and their images as small uint8 arrays.

Images are brought to the model's size once, by the very processor that is exported with the model, and kept in
memory; a set that is too large for that is read from the shards batch by batch.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil

from vecap_tasks.config import Arm
from vecap_tasks.dataset.store import Store
from vecap_tasks.errors import DamagedError

Pixels = NDArray[np.uint8]  # [n, size, size, 3]
_DECODED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of an image lie in a training shard."""

    shard: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sample; a text is "" where there is none."""

    uid: str
    alttext: str
    vec: str
    vecap: str
    image: Place

    def usable(self, arm: Arm) -> bool:
        """Say whether the sample has a text for *arm*."""
        if arm == "mixed":
            return bool(self.alttext or self.vecap)
        return bool({"alttext": self.alttext, "vec": self.vec, "vecap": self.vecap}[arm])


def read_samples(store: Store, shards: Sequence[str]) -> list[Sample]:
    """Return the samples of the training *shards* (names in the store), in order.

    Raises DamagedError for a shard that is not a tar of `.jpg` and `.json` pairs.
    """
    return [sample for shard in shards for sample in _samples(store, shard)]


def _samples(store: Store, shard: str) -> Iterator[Sample]:
    images: dict[str, Place] = {}
    try:
        with store.open(shard) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                key, ending = PurePosixPath(member.name).stem, PurePosixPath(member.name).suffix
                if ending == ".jpg":
                    images[key] = Place(shard, member.offset_data, member.size)
                elif ending == ".json":
                    stream.seek(member.offset_data)
                    body = json.loads(stream.read(member.size))
                    yield Sample(body["uid"], body["alttext"], body["vec"], body["vecap"], images.pop(key))
    except (tarfile.TarError, ValueError, KeyError) as error:
        raise DamagedError(f"{shard} is not a training shard: {error}; run `vecap verify`") from error
    if images:
        raise DamagedError(f"{shard} has no .json for {min(images)}; run `vecap verify`")


class Images(Protocol):
    """Images by their number in the run's samples."""

    def take(self, numbers: NDArray[np.int64]) -> Pixels:
        """Return the images *numbers*: uint8 [n, size, size, 3]."""


class ShardImages:
    """Images read and decoded from the shards whenever they are asked for."""

    def __init__(self, store: Store, places: Sequence[Place], processor: CLIPImageProcessorPil, threads: int) -> None:
        self._store = store
        self._places = places
        self._processor = processor
        self._threads = threads

    def take(self, numbers: NDArray[np.int64]) -> Pixels:
        places = [self._places[number] for number in numbers]
        if self._threads == 1:
            return np.stack([self._decode(place) for place in places])
        with ThreadPoolExecutor(self._threads) as pool:
            return np.stack(list(pool.map(self._decode, places)))

    def _decode(self, place: Place) -> Pixels:
        with self._store.open(place.shard) as stream:
            stream.seek(place.offset)
            data = stream.read(place.size)
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except (OSError, SyntaxError) as error:
            raise DamagedError(f"{place.shard} holds an image that cannot be read; run `vecap verify`") from error
        made = self._processor([image], do_rescale=False, do_normalize=False, return_tensors="np")
        pixels: Pixels = made["pixel_values"][0].transpose(1, 2, 0)
        return pixels


class MemoryImages:
    """All images decoded at once and kept."""

    def __init__(self, source: Images, count: int, size: int) -> None:
        self._pixels = np.empty((count, size, size, 3), dtype=np.uint8)
        for start in range(0, count, _DECODED_AT_ONCE):
            numbers = np.arange(start, min(start + _DECODED_AT_ONCE, count))
            self._pixels[numbers] = source.take(numbers)

    def take(self, numbers: NDArray[np.int64]) -> Pixels:
        return self._pixels[numbers]


def open_images(
    store: Store, places: Sequence[Place], processor: CLIPImageProcessorPil, *, cache_bytes: int, threads: int
) -> Images:
    """Return the images at *places*: kept in memory where they fit into *cache_bytes*, else read for each batch."""
    size = int(processor.crop_size["height"])
    images = ShardImages(store, places, processor, threads)
    if len(places) * size * size * 3 > cache_bytes:
        return images
    return MemoryImages(images, len(places), size)
