"""Outputs of a locked image tower, computed once for all runs of a stage and kept in the store until its commit.

Each file has the outputs of one shard: all of its images in batches of fixed size and order, whatever their texts, so
that each run reads the same bytes. Its name ends with digits of its sha256; a changed file is computed again.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from hashlib import sha256
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import read_groups
from vecap_tasks.errors import CorruptError
from vecap_tasks.outages import retry_when_full
from vecap_tasks.train.data.images import Decoder, Index, Pixels
from vecap_tasks.train.data.samples import IMAGE_EXTENSIONS, MAX_IMAGE, Shard

log = logging.getLogger(__name__)

_BATCH = 64  # images
_DIGITS = 16
Features = NDArray[np.float32]  # [n, width]
Encode = Callable[[Pixels], torch.Tensor]


class Group(Protocol):
    """The processes that train one model."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def barrier(self) -> None: ...


class FeatureCache:
    """The outputs of a locked tower for the shards of a stage, in *folder* of the store.

    *encode* returns the outputs float32 [n, width] of pixels uint8 [n, size, size, 3]. The processes of a *group* share
    the computation.
    """

    def __init__(self, store: Store, folder: str, encode: Encode, width: int, group: Group) -> None:
        self._store = store
        self._folder = folder
        self._encode = encode
        self.width = width
        self._group = group

    def read(self, index: Index, decoder: Decoder) -> FeatureImages:
        """Return the outputs of the samples of *index*."""
        group = self._group
        for number, shard in enumerate(index.shards):
            if number % group.world_size == group.rank and self._load(number) is None:
                self._save(number, self._compute(shard, decoder))
        group.barrier()
        features = np.zeros((len(index), self.width), np.float32)
        known = np.zeros(len(index), np.bool_)
        for number, shard in enumerate(index.shards):
            offsets, found = self._load(number) or self._compute(shard, decoder)
            rows = np.flatnonzero(index.shard == number)
            if not len(offsets):  # no image can be decoded
                continue
            position = np.searchsorted(offsets, index.offset[rows])
            position = np.minimum(position, len(offsets) - 1)
            decoded = offsets[position] == index.offset[rows]
            features[rows[decoded]] = found[position[decoded]]
            known[rows[decoded]] = True
        return FeatureImages(index, features, known)

    def _files(self, number: int) -> list[str]:
        return [name for name in self._store.files(self._folder) if name.startswith(f"{number:06d}-")]

    def _load(self, number: int) -> tuple[NDArray[np.int64], Features] | None:
        """Return offsets and outputs of the shard *number*, None if they are not computed or were changed."""
        for name in self._files(number):
            data = self._store.read(f"{self._folder}/{name}")
            if name == _name(number, data):
                with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                    return arrays["offset"], arrays["features"]
            log.warning("%s/%s has changed; computing it again", self._folder, name)
        return None

    def _save(self, number: int, arrays: tuple[NDArray[np.int64], Features]) -> None:
        body = io.BytesIO()
        np.savez(body, offset=arrays[0], features=arrays[1])
        name = _name(number, body.getvalue())
        changed = self._files(number)
        retry_when_full(lambda: self._store.put(f"{self._folder}/{name}", body.getvalue()), self._store.scratch)
        for other in set(changed) - {name}:
            self._store.remove(f"{self._folder}/{other}")

    def _compute(self, shard: Shard, decoder: Decoder) -> tuple[NDArray[np.int64], Features]:
        """Return the offsets of the images of *shard* that can be decoded, in order, and their outputs."""
        log.info("computing the image features of %s", shard.name)
        offsets: list[int] = []
        outputs: list[Features] = []
        batch: list[Pixels] = []

        def flush() -> None:
            if batch:
                outputs.append(self._encode(np.stack(batch)).cpu().numpy())
                batch.clear()

        with shard.open() as stream:
            for _, members in read_groups(stream, shard.name):
                kinds = {member.kind: member for member in members}
                image = next((kinds[kind] for kind in IMAGE_EXTENSIONS if kind in kinds), None)
                pixels = None if image is None or image.size > MAX_IMAGE else decoder(image.read(stream))
                if image is None or pixels is None:
                    continue
                offsets.append(image.offset)
                batch.append(pixels)
                if len(batch) == _BATCH:
                    flush()
        flush()
        empty = np.zeros((0, self.width), np.float32)
        return np.array(offsets, np.int64), np.concatenate([empty, *outputs])


def _name(number: int, data: bytes) -> str:
    return f"{number:06d}-{sha256(data).hexdigest()[:_DIGITS]}.npz"


class FeatureImages:
    """Outputs of a locked tower by sample number, as `Images` has pixels."""

    def __init__(self, index: Index, features: Features, known: NDArray[np.bool_]) -> None:
        """Raise CorruptError if an image of a version, or every image of another source, cannot be decoded."""
        self._features = features
        self._used = np.arange(len(index))
        for number in np.flatnonzero(~known).tolist():
            source_number = int(np.searchsorted(index.bounds, number, side="right")) - 1
            first, end = (int(bound) for bound in index.bounds[source_number : source_number + 2])
            source, shard = index.sources[source_number], index.shards[index.shard[number]]
            if source.own:
                raise CorruptError(f"{shard.name} has an image that cannot be decoded; run `vecap verify`")
            log.warning("%s: cannot decode the image at byte %d", shard.name, index.offset[number])
            following = np.arange(first, end)
            following = np.concatenate([following[following > number], following[following < number]])
            decoded = following[known[following]]
            if not len(decoded):
                raise CorruptError(f"{source.name} has no image that can be decoded; remove it from the mixture")
            self._used[number] = decoded[0]

    def take(self, numbers: NDArray[np.int64]) -> tuple[Features, NDArray[np.int64]]:
        """Return the outputs for *numbers*, float32 [n, width], and the samples actually used."""
        used = self._used[numbers]
        return self._features[used], used
