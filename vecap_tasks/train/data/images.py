"""The sample index of map-style training data, image decoding and caching, random crops and normalization."""

from __future__ import annotations

import hashlib
import io
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import IO, Protocol

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedTokenizerFast

from vecap_tasks.config import PreprocessWay
from vecap_tasks.core.preprocess import CLIP_STATISTICS, Statistics, shrink
from vecap_tasks.errors import CorruptError
from vecap_tasks.train.data.epoch import TextDraws
from vecap_tasks.train.data.samples import ReadStats, Sample, Shard, Source, read_samples
from vecap_tasks.train.data.tokenizer import TokenizedTexts, Tokens

log = logging.getLogger(__name__)

_INDEX_CHUNK = 4096  # samples held as objects before they are added to the arrays
_DECODE_CHUNK = 256  # images
Pixels = NDArray[np.uint8]  # [n, size, size, 3]
ModelInput = Pixels | NDArray[np.float32]  # pixels, or outputs [n, width] of a locked tower
Decode = Callable[[bytes], Pixels | None]


class Index:
    """The samples of *sources* with a text to draw, numbered in source, shard and tar order.

    *draws* draws the texts of the samples of each source. `shard` (int32, index into `shards`), `offset` and `size`
    (int64, bytes) locate the image of each sample; `crc` (int64) is its CRC-32, which later reads compare. `bounds` has
    the number of each source's first sample, and the total; `stats` has the counts of each source.
    """

    def __init__(
        self, sources: Sequence[Source], draws: Sequence[TextDraws], tokenizer: PreTrainedTokenizerFast
    ) -> None:
        self.sources = tuple(sources)
        self.shards = tuple(shard for source in sources for shard in source.shards)
        self.stats = tuple(ReadStats() for _ in sources)
        self._draws = tuple(draws)
        self._texts = TokenizedTexts(tokenizer)
        uids: list[pa.Array] = []
        columns: list[NDArray[np.int64]] = []  # shard, offset, size, CRC, then the variants of each text
        parts: list[NDArray[np.int64]] = []  # of each variant: itself and its sentences that may be drawn
        self._widest = max(len(source.texts) for source in sources)
        bounds = [0]
        number = 0
        for source, draw, stats in zip(sources, draws, self.stats, strict=True):
            for shard in source.shards:
                for chunk_uids, chunk in self._read(shard, source, draw, stats, parts):
                    uids.append(chunk_uids)
                    columns.append(np.vstack([np.full(len(chunk_uids), number), chunk]))
                number += 1
            bounds.append(bounds[-1] + stats.usable)
        self._uids: pa.Array = pa.chunked_array(uids, pa.string()).combine_chunks()
        table = np.concatenate(columns, axis=1) if columns else np.zeros((4 + self._widest, 0), np.int64)
        self.shard, self.offset, self.size, self.crc = table[0].astype(np.int32), table[1], table[2], table[3]
        self._counts = table[4:].T.astype(np.int32)
        self._first_text = _starts(self._counts.sum(axis=1))
        self._first_part = _starts(np.concatenate(parts) if parts else np.zeros(0, np.int64))
        self.bounds = np.array(bounds)

    def __len__(self) -> int:
        return len(self.offset)

    def uids(self, numbers: NDArray[np.int64]) -> tuple[str, ...]:
        """Return the uids of the samples *numbers*."""
        return tuple(self._uids.take(pa.array(numbers)).to_pylist())

    def tokens(self, numbers: NDArray[np.int64], passes: NDArray[np.int64]) -> Tokens:
        """Return the texts of the samples *numbers* in the given *passes*: token ids, int32 [n, captions, longest]."""
        captions = self._draws[0].number
        first_text = self._first_text[numbers]
        texts = np.repeat(self._first_part[first_text][:, None], captions, axis=1)
        limits = np.zeros_like(texts)
        several = self._first_text[numbers + 1] - first_text > 1
        drawn = np.flatnonzero(several) if self._draws[0].sub_captions is None else np.arange(len(numbers))
        for row, uid in zip(drawn.tolist(), self.uids(numbers[drawn]), strict=True):
            number = int(numbers[row])
            draws = self._draws[int(np.searchsorted(self.bounds, number, side="right")) - 1]
            counts = self._counts[number, : len(draws.weights)].tolist()
            for column, draw in enumerate(draws.draw(uid, int(passes[row]), counts)):
                variant = int(first_text[row]) + draw.variant
                first, stop = self._first_part[variant : variant + 2].tolist()
                texts[row, column] = first + draws.sentence(draw, stop - first)
                limits[row, column] = draws.limit(draw)
        return self._texts.take(texts.ravel(), limits.ravel()).reshape(len(numbers), captions, -1)

    def _read(
        self, shard: Shard, source: Source, draws: TextDraws, stats: ReadStats, parts: list[NDArray[np.int64]]
    ) -> Iterator[tuple[pa.Array, NDArray[np.int64]]]:
        """Yield uids, and offset, size, CRC and variants of each text, of the samples of *shard* in chunks.

        Appends the number of parts of each variant to *parts*. Raises CorruptError if the shard differs from its
        record.
        """
        with shard.open() as stream:
            samples = _with_crc(read_samples(stream, shard, source, stats), stream)
            while chunk := list(islice(samples, _INDEX_CHUNK)):
                found = [
                    draws.parts(text, variant)
                    for sample, _ in chunk
                    for text, variants in zip(source.texts, sample.texts, strict=True)
                    for variant in variants
                ]
                self._texts.add([part for variant in found for part in variant])
                parts.append(np.array([len(variant) for variant in found], np.int64))
                unused = [0] * (self._widest - len(source.texts))
                rows = [(sample.offset, sample.size, crc, *sample.counts, *unused) for sample, crc in chunk]
                yield pa.array([sample.uid for sample, _ in chunk], pa.string()), np.array(rows, np.int64).T


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _with_crc(samples: Iterator[Sample], stream: IO[bytes]) -> Iterator[tuple[Sample, int]]:
    """Yield each sample with the CRC-32 of its image, read while it is in the cache."""
    for sample in samples:
        stream.seek(sample.offset)
        yield sample, zlib.crc32(stream.read(sample.size))


class Decoder:
    """Callable on the bytes of an image. Returns uint8 [size, size, 3], or None if they cannot be decoded."""

    def __init__(self, size: int, preprocess: PreprocessWay) -> None:
        self.size = size
        self._preprocess = preprocess

    def __call__(self, data: bytes) -> Pixels | None:
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.mode == "P" and image.palette is None:  # damaged; Pillow reads it as black
                    return None
                return shrink(image, self.size, self._preprocess)
        except Exception:  # Pillow raises errors of many types on corrupt files
            return None


class Images(Protocol):
    """Images, or outputs of a locked tower for them, by sample number."""

    def take(self, numbers: NDArray[np.int64]) -> tuple[ModelInput, NDArray[np.int64]]:
        """Return the images of *numbers*, uint8 [n, size, size, 3] or float32 [n, width], and the samples used.

        An undecodable image of an external source is replaced by the next sample.
        """


class ShardImages:
    """Images read from the shards and decoded on each request, on *threads* threads."""

    def __init__(self, index: Index, decoder: Decoder, threads: int) -> None:
        self._index = index
        self._decoder = decoder
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._unreadable: set[int] = set()

    def take(self, numbers: NDArray[np.int64]) -> tuple[Pixels, NDArray[np.int64]]:
        size = self._decoder.size
        pixels = np.empty((len(numbers), size, size, 3), np.uint8)

        def decode(row: int) -> int:
            pixels[row], used = self._decode_from(int(numbers[row]))
            return used

        return pixels, np.fromiter(self._pool.map(decode, range(len(numbers))), np.int64, len(numbers))

    def _decode_from(self, number: int) -> tuple[Pixels, int]:
        """Return the first decodable image at or after *number*, wrapping around within its source, and its number."""
        source_number = int(np.searchsorted(self._index.bounds, number, side="right")) - 1
        first, end = self._index.bounds[source_number], self._index.bounds[source_number + 1]
        source = self._index.sources[source_number]
        for step in range(end - first):
            candidate = int(first + (number - first + step) % (end - first))
            shard = self._index.shards[self._index.shard[candidate]]
            offset = int(self._index.offset[candidate])
            data = shard.read(offset, int(self._index.size[candidate]))
            if zlib.crc32(data) != self._index.crc[candidate]:
                raise CorruptError(f"{shard.name} changed after it was indexed: the image at byte {offset}; restore it")
            pixels = self._decoder(data)
            if pixels is not None:
                return pixels, candidate
            if source.own:
                raise CorruptError(f"{shard.name} has an image that cannot be decoded; run `vecap verify`")
            if candidate not in self._unreadable:
                self._unreadable.add(candidate)
                log.warning("%s: cannot decode the image at byte %d", shard.name, offset)
        raise CorruptError(f"{source.name} has no image that can be decoded; remove it from the mixture")


class MemoryImages:
    """All images, decoded once and kept in memory."""

    def __init__(self, images: ShardImages, count: int, size: int) -> None:
        self._pixels = np.empty((count, size, size, 3), dtype=np.uint8)
        self._used = np.empty(count, np.int64)
        for start in range(0, count, _DECODE_CHUNK):
            numbers = np.arange(start, min(start + _DECODE_CHUNK, count))
            self._pixels[numbers], self._used[numbers] = images.take(numbers)

    def take(self, numbers: NDArray[np.int64]) -> tuple[Pixels, NDArray[np.int64]]:
        return self._pixels[numbers], self._used[numbers]


def open_images(index: Index, decoder: Decoder, *, cache_bytes: int, threads: int) -> Images:
    """Return the images of *index*: cached in memory if they fit into *cache_bytes*, otherwise read for each batch."""
    images = ShardImages(index, decoder, threads)
    if len(index) * decoder.size * decoder.size * 3 > cache_bytes:
        return images
    return MemoryImages(images, len(index), decoder.size)


class Normalize:
    """Callable on pixels (uint8 [n, size, size, 3]), uids and epoch. Returns float32 [n, 3, size, size].

    The crop of a sample depends only on seed, uid and epoch, not on batch or process.
    """

    def __init__(
        self, seed: int, crop_scale: float, device: torch.device, statistics: Statistics = CLIP_STATISTICS
    ) -> None:
        self._seed = seed
        self._scale = crop_scale
        self._device = device
        # (x / 255 - mean) / std as one multiplication and one addition
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (statistics.mean, statistics.deviation))
        self._factor = 1 / (255 * std)
        self._shift = -mean / std

    def __call__(self, pixels: torch.Tensor, uids: Sequence[str], epoch: int) -> torch.Tensor:
        values = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32)
        if self._scale < 1:
            values = self._crop(values, crop_params(self._seed, uids, epoch))
        return values * self._factor + self._shift

    def _crop(self, values: torch.Tensor, params: NDArray[np.float32]) -> torch.Tensor:
        """Crop a square of each image, with an area fraction between `crop_scale` and 1, and resize it to full size."""
        side = np.sqrt(self._scale + (1 - self._scale) * params[:, 0])
        center = (params[:, 1:] * 2 - 1) * (1 - side)[:, None]
        window = np.zeros((len(params), 2, 3), dtype=np.float32)
        window[:, 0, 0] = window[:, 1, 1] = side
        window[:, :, 2] = center
        grid = F.affine_grid(torch.from_numpy(window).to(self._device), list(values.shape), align_corners=False)
        return F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)


def crop_params(seed: int, uids: Sequence[str], epoch: int) -> NDArray[np.float32]:
    """Return three uniform numbers in [0, 1) for each sample: float32 [n, 3]."""
    keys = (f"{seed}/{uid}/{epoch}/crop".encode() for uid in uids)
    digests = b"".join(hashlib.blake2b(key, digest_size=12).digest() for key in keys)
    # 24 bits are exact in float32 and never round up to 1
    return (np.frombuffer(digests, "<u4").reshape(-1, 3) >> 8).astype(np.float32) / np.float32(1 << 24)
