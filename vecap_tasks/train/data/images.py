"""The images of a shuffled set: their index, decoding, memory cache, random crops and normalization."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from vecap_tasks.config import PreprocessWay
from vecap_tasks.core.preprocess import shrink
from vecap_tasks.errors import CorruptError
from vecap_tasks.train.data.samples import ReadStats, Sample, Shard, Source, draw, read_samples
from vecap_tasks.train.data.tokenizer import TokenizedTexts, Tokens

log = logging.getLogger(__name__)

_AT_ONCE = 4096  # samples that are objects, on their way into the arrays
Pixels = NDArray[np.uint8]  # [n, size, size, 3]
Decode = Callable[[bytes], Pixels | None]
_DECODED_AT_ONCE = 256


class Index:
    """The samples of *sources* with a text for their arm, numbered through in the order of sources, shards and tars.

    `shards`, `shard` (int32, into it), `offset` (int64) and `size` (int64), in bytes, say where the image of each
    lies; `bounds` has the number of each source's first sample, and the end; `tallies` what was met in each source.
    """

    def __init__(self, sources: Sequence[Source], tokenizer: PreTrainedTokenizerFast) -> None:
        self.sources = tuple(sources)
        self.shards = tuple(shard for source in sources for shard in source.shards)
        self.tallies = tuple(ReadStats() for _ in sources)
        self._texts = TokenizedTexts(tokenizer)
        uids: list[pa.Array] = []
        columns: list[NDArray[np.int64]] = []  # shard, offset, size, texts, alttexts
        bounds = [0]
        number = 0
        for source, stats in zip(sources, self.tallies, strict=True):
            for shard in source.shards:
                for made in _columns(shard, source, stats, self._texts):
                    uids.append(made[0])
                    columns.append(np.vstack([np.full(len(made[0]), number), made[1]]))
                number += 1
            bounds.append(bounds[-1] + stats.usable)
        self._uids: pa.Array = pa.chunked_array(uids, pa.string()).combine_chunks()
        every = np.concatenate(columns, axis=1) if columns else np.zeros((5, 0), np.int64)
        self.shard, self.offset, self.size = every[0].astype(np.int32), every[1], every[2]
        self._first_text = np.concatenate([[0], np.cumsum(every[3])])
        self._alttexts = every[4].astype(np.uint8)
        self.bounds = np.array(bounds)

    def __len__(self) -> int:
        return len(self.offset)

    def uids(self, numbers: NDArray[np.int64]) -> tuple[str, ...]:
        """Return the names of the samples *numbers*."""
        return tuple(self._uids.take(pa.array(numbers)).to_pylist())

    def tokens(self, numbers: NDArray[np.int64], passes: NDArray[np.int64], seed: int) -> Tokens:
        """Return the ids of the texts that *numbers* are shown with in the passes *turns*: int32 [n, longest]."""
        first = self._first_text[numbers]
        count = self._first_text[numbers + 1] - first
        alttexts = self._alttexts[numbers]
        taken = np.zeros(len(numbers), np.int64)
        several = np.flatnonzero(count > 1)
        for row, uid in zip(several, self.uids(numbers[several]), strict=True):
            source = self.sources[int(np.searchsorted(self.bounds, numbers[row], side="right")) - 1]
            taken[row] = draw(seed, uid, int(passes[row]), int(alttexts[row]), int(count[row]), source.mixed_p)
        return self._texts.take(first + taken)


def _columns(
    shard: Shard, source: Source, stats: ReadStats, texts: TokenizedTexts
) -> list[tuple[pa.Array, NDArray[np.int64]]]:
    """Return uids and offset, size, texts, alttexts of the samples of *shard*, and add what they say to *texts*."""
    made = []
    with shard.open() as stream:
        samples = read_samples(stream, shard, source, stats)
        while part := list(islice(samples, _AT_ONCE)):
            texts.add([text for sample in part for text in sample.texts])
            made.append((pa.array([sample.uid for sample in part], pa.string()), _numbers(part)))
    return made


def _numbers(samples: Sequence[Sample]) -> NDArray[np.int64]:
    rows = [(sample.offset, sample.size, len(sample.texts), sample.alttexts) for sample in samples]
    return np.array(rows, np.int64).T


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
                raise CorruptError(f"{shard.name} holds an image that cannot be read; run `vecap verify`")
            if tried not in self._unreadable:
                self._unreadable.add(tried)
                log.warning("%s: an image at byte %d cannot be decoded", shard.name, self._index.offset[tried])
        raise CorruptError(f"{source.name} holds no image that can be read; take it out of the mixture")


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


class Normalize:
    """Callable on uint8 [n, size, size, 3], the names of the samples and the epoch: float32 [n, 3, size, size].

    Which crop a sample has in an epoch follows from seed, uid and epoch, whatever batch and process it is in.
    """

    def __init__(self, seed: int, crop_scale: float, device: torch.device) -> None:
        self._seed = seed
        self._scale = crop_scale
        self._device = device
        # (x / 255 - mean) / deviation as one multiplication and one addition
        deviation = torch.tensor(OPENAI_CLIP_STD, device=device).view(1, 3, 1, 1)
        self._factor = 1 / (255 * deviation)
        self._shift = -torch.tensor(OPENAI_CLIP_MEAN, device=device).view(1, 3, 1, 1) / deviation

    def __call__(self, pixels: torch.Tensor, uids: Sequence[str], epoch: int) -> torch.Tensor:
        values = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32)
        if self._scale < 1:
            values = self._crop(values, crops(self._seed, uids, epoch))
        return values * self._factor + self._shift

    def _crop(self, values: torch.Tensor, drawn: NDArray[np.float32]) -> torch.Tensor:
        """Show a square window of each image, its area drawn between `crop_scale` and 1, at the full size."""
        side = np.sqrt(self._scale + (1 - self._scale) * drawn[:, 0])
        center = (drawn[:, 1:] * 2 - 1) * (1 - side)[:, None]
        window = np.zeros((len(drawn), 2, 3), dtype=np.float32)
        window[:, 0, 0] = window[:, 1, 1] = side
        window[:, :, 2] = center
        grid = F.affine_grid(torch.from_numpy(window).to(self._device), list(values.shape), align_corners=False)
        return F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)


def crops(seed: int, uids: Sequence[str], epoch: int) -> NDArray[np.float32]:
    """Return three numbers from 0 up to 1 for each sample: float32 [n, 3]."""
    words = (f"{seed}/{uid}/{epoch}/crop".encode() for uid in uids)
    drawn = b"".join(hashlib.blake2b(word, digest_size=12).digest() for word in words)
    # 24 bits each: a float32 holds them exactly, and never rounds up to 1
    return (np.frombuffer(drawn, "<u4").reshape(-1, 3) >> 8).astype(np.float32) / np.float32(1 << 24)
