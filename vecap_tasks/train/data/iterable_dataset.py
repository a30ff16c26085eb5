"""Training data that is streamed shard by shard, for data too large for memory or for a sample index.

Each epoch shuffles the shards and concatenates them into one sequence, which is split into `num_readers` equal ranges.
Each reader reads one range in order and shuffles samples within a window, whose encoded images are held in memory.
Each batch takes the same number of samples from each reader. Readers, windows and batches depend only on seed and
configuration, and a rank reads only its own ranges.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerFast

from vecap_tasks.config import ReadingConfig
from vecap_tasks.errors import CorruptError
from vecap_tasks.train.data.epoch import Batch, RunPlan, TextDraws, pass_slices, prefetch, rank_range
from vecap_tasks.train.data.images import Decoder, Pixels
from vecap_tasks.train.data.samples import Sample, Shard, Source, read_samples
from vecap_tasks.train.data.tokenizer import TokenizedTexts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _ShardSlice:
    """The usable samples `start` to `stop` (exclusive) of a shard, in one pass over its source."""

    source: Source
    draws: TextDraws
    shard: Shard
    pass_number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _EncodedSample:
    """A sample with its encoded image."""

    shard_slice: _ShardSlice
    sample: Sample
    image: bytes


@dataclass(frozen=True, slots=True)
class _DecodedSample:
    """A sample with its decoded image and drawn texts; `limits` are their numbers of tokens, 0: all."""

    uid: str
    texts: list[str]
    limits: list[int]
    pixels: Pixels


class IterableTrainingData:
    """`TrainingData` over *sources*, whose shards must be counted."""

    def __init__(
        self,
        sources: Sequence[Source],
        draws: Sequence[TextDraws],
        plan: RunPlan,
        decoder: Decoder,
        tokenizer: PreTrainedTokenizerFast,
        reading: ReadingConfig,
        seed: int,
        threads: int,
    ) -> None:
        self.samples, self.left_out, self.batch_size = plan.samples, plan.left_out, plan.batch_size
        self.steps_per_epoch, self.steps = plan.steps_per_epoch, plan.steps
        self._sources = sources
        self._draws = draws
        self._plan = plan
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._window = reading.shuffle_buffer
        self._seed = seed
        self._threads = threads
        self.num_readers = next(
            n for n in range(min(reading.num_readers, plan.batch_size), 0, -1) if plan.batch_size % n == 0
        )

    def batches(self, first: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield the batches. Raises ConfigError if the number of readers is not a multiple of *world_size*."""
        rank_range(self.batch_size, rank, world_size)
        numbers = rank_range(self.num_readers, rank, world_size, "readers (train.reading.num_readers)")
        return self._batches([self._reader(number, first) for number in numbers], first)

    def _batches(self, readers: list[Iterator[_DecodedSample]], first: int) -> Iterator[Batch]:
        count = self.batch_size // self.num_readers
        with ThreadPoolExecutor(self._threads, thread_name_prefix="readers") as pool:

            def load(step: int) -> Batch:
                # Readers are generators: each runs on one thread at a time, and all run in parallel.
                parts = pool.map(lambda reader: list(islice(reader, count)), readers)
                samples = [sample for part in parts for sample in part]
                texts = TokenizedTexts(self._tokenizer)
                texts.add([text for sample in samples for text in sample.texts])
                limits = np.array([limit for sample in samples for limit in sample.limits])
                ids = texts.take(np.arange(len(limits)), limits).reshape(len(samples), self._draws[0].number, -1)
                epoch, index = divmod(step, self.steps_per_epoch)
                uids = tuple(sample.uid for sample in samples)
                return Batch(step, epoch, index, uids, np.stack([sample.pixels for sample in samples]), ids)

            yield from prefetch(load, first, self.steps)

    def _reader(self, number: int, first: int) -> Iterator[_DecodedSample]:
        """Yield the samples of the reader *number* from the step *first* on, without end."""
        count = self.batch_size // self.num_readers
        length = self.steps_per_epoch * count
        epoch, index = divmod(first, self.steps_per_epoch)
        skipped = index * count
        while True:
            samples: Iterator[_EncodedSample] | None = None
            for start, size in self._windows(number, length):
                if skipped >= start + size:
                    continue
                if samples is None:
                    samples = self._read(epoch, number * length + start, length - start)
                window = list(islice(samples, size))
                order = np.random.default_rng([self._seed, epoch, number, start]).permutation(size)
                for position in order[max(0, skipped - start) :]:
                    yield self._decode(window, int(position))
            epoch, skipped = epoch + 1, 0

    def _windows(self, number: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield start and size of the shuffle windows of the reader *number*; the last one is not a small remainder."""
        half = self._window // 2
        size = max(1, half + half * (number + 1) // self.num_readers)  # staggers the window ends of the readers
        start = 0
        while start < length:
            if length - start - size < half:
                size = length - start
            yield start, size
            start, size = start + size, self._window

    def _read(self, epoch: int, first: int, count: int) -> Iterator[_EncodedSample]:
        """Yield *count* samples of the sequence of *epoch*, starting at position *first*."""
        for shard_slice in self._shard_slices(epoch):
            length = shard_slice.stop - shard_slice.start
            if first >= length:
                first -= length
                continue
            available = min(length - first, count)
            yield from _read_shard(shard_slice, shard_slice.start + first, available)
            first, count = 0, count - available
            if count == 0:
                return

    def _shard_slices(self, epoch: int) -> list[_ShardSlice]:
        """Return the shuffled shard slices of *epoch*; a partial pass over a source contains partial shards."""
        slices = []
        for number, (source, draws, usable, quota) in enumerate(
            zip(self._sources, self._draws, self._plan.usable, self._plan.quotas, strict=True)
        ):
            for part in pass_slices(usable, quota, epoch):
                order = np.random.default_rng([self._seed, part.pass_number, number, 2]).permutation(len(source.shards))
                offset = 0
                for shard in (source.shards[position] for position in order):
                    count = usable_count(shard)
                    start, stop = max(part.start - offset, 0), min(part.stop - offset, count)
                    if start < stop:
                        slices.append(_ShardSlice(source, draws, shard, part.pass_number, start, stop))
                    offset += count
        shuffled = np.random.default_rng([self._seed, epoch, 3]).permutation(len(slices))
        return [slices[position] for position in shuffled]

    def _decode(self, window: list[_EncodedSample], position: int) -> _DecodedSample:
        """Return the sample at *position* of *window*.

        An undecodable image of an external source is replaced by a sample half a window away.
        """
        for step in range(len(window)):
            encoded = window[position if step == 0 else (position + len(window) // 2 + step - 1) % len(window)]
            sample, shard_slice = encoded.sample, encoded.shard_slice
            source, name = shard_slice.source, shard_slice.shard.name
            pixels = self._decoder(encoded.image)
            if pixels is not None:
                draws = shard_slice.draws.draw(sample.uid, shard_slice.pass_number, sample.counts)
                texts = [shard_slice.draws.text(draw, sample.texts) for draw in draws]
                return _DecodedSample(sample.uid, texts, [shard_slice.draws.limit(draw) for draw in draws], pixels)
            if source.own:
                raise CorruptError(f"{name} has an image that cannot be decoded; run `vecap verify`")
            log.warning("%s: cannot decode the image at byte %d", name, sample.offset)
        name = window[0].shard_slice.shard.name
        raise CorruptError(f"{name} has no image that can be decoded; remove it from the mixture")


def usable_count(shard: Shard) -> int:
    """Return how many samples of *shard*, which must be counted, have a text of its source."""
    if shard.usable is None:
        raise ValueError(f"{shard.name} is not counted")
    return shard.usable


def _read_shard(shard_slice: _ShardSlice, first: int, count: int) -> Iterator[_EncodedSample]:
    """Yield *count* usable samples of the shard, starting at *first*. Raises CorruptError if it has fewer.

    The last sample comes after the shard has been compared with its record.
    """
    shard = shard_slice.shard
    last = None
    with shard.open() as stream:
        left = count
        for sample in islice(read_samples(stream, shard, shard_slice.source), first, first + count):
            if last is not None:
                yield last
            stream.seek(sample.offset)
            last = _EncodedSample(shard_slice, sample, stream.read(sample.size))
            left -= 1
    if last is not None:
        yield last
    if left:
        raise CorruptError(f"{shard.name} has {left} samples fewer than counted; it changed after that, restore it")
