"""A set that is read shard by shard, for those that neither fit into memory nor want an index of every sample.

The shards of an epoch are put in an order drawn anew and joined to one row of samples, which is cut into as many lanes
of the same length as the configuration says. A batch takes as many samples from every lane. A lane is read from its
start to its end; its samples are shuffled within windows, whose images are held in memory as they are in the tar. So
lanes, windows and batches follow from the seed and the configuration, and a rank reads its lanes and no others.
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
from vecap_tasks.train.data.epoch import Plan, parts
from vecap_tasks.train.data.images import Decoder, Pixels
from vecap_tasks.train.data.prefetch import Batch, prefetch, share
from vecap_tasks.train.data.samples import Sample, Shard, Source, draw, read_samples
from vecap_tasks.train.data.tokenizer import TokenizedTexts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Visit:
    """The usable samples `start` up to `stop` of a shard, in the pass `turn` over its source."""

    source: Source
    shard: Shard
    pass_number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Read:
    """A sample as it was read: its image is still as it is in the tar."""

    visit: _Visit
    sample: Sample
    image: bytes


@dataclass(frozen=True, slots=True)
class _Shown:
    """A sample of a batch: its image decoded, its text drawn."""

    uid: str
    text: str
    pixels: Pixels


class StreamedData:
    """Training data (`batch.py`) of *sources*, all of whose shards say how many usable samples they have."""

    def __init__(
        self,
        sources: Sequence[Source],
        plan: Plan,
        decoder: Decoder,
        tokenizer: PreTrainedTokenizerFast,
        reading: ReadingConfig,
        seed: int,
        threads: int,
    ) -> None:
        self.samples, self.left_out, self.batch_size = plan.samples, plan.left_out, plan.batch_size
        self.per_epoch, self.steps = plan.per_epoch, plan.steps
        self._sources = sources
        self._plan = plan
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._window = reading.shuffle_buffer
        self._seed = seed
        self._threads = threads
        self.readers = next(
            n for n in range(min(reading.num_readers, plan.batch_size), 0, -1) if plan.batch_size % n == 0
        )

    def batches(self, first: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Give the batches; the lanes must be a multiple of *world*, or ConfigError is raised."""
        share(self.batch_size, rank, world)
        readers = [
            self._reader(n, first) for n in share(self.readers, rank, world, "lanes (train.reading.num_readers)")
        ]
        return self._batches(readers, first)

    def _batches(self, readers: list[Iterator[_Shown]], first: int) -> Iterator[Batch]:
        each = self.batch_size // self.readers
        with ThreadPoolExecutor(self._threads, thread_name_prefix="lanes") as pool:

            def make(step: int) -> Batch:
                # A lane is a generator: it is worked on by one thread at a time, and the lanes side by side.
                shown = [one for of_lane in pool.map(lambda lane: list(islice(lane, each)), readers) for one in of_lane]
                texts = TokenizedTexts(self._tokenizer)
                texts.add([one.text for one in shown])
                epoch, place = divmod(step, self.per_epoch)
                uids = tuple(one.uid for one in shown)
                pixels = np.stack([one.pixels for one in shown])
                return Batch(step, epoch, place, uids, pixels, texts.take(np.arange(len(shown))))

            yield from prefetch(make, first, self.steps)

    def _reader(self, lane: int, first: int) -> Iterator[_Shown]:
        """Give the samples of *lane* from the step *first* on, to the end of the run."""
        each = self.batch_size // self.readers
        length = self.per_epoch * each
        epoch, place = divmod(first, self.per_epoch)
        skipped = place * each
        while True:
            reader: Iterator[_Read] | None = None
            for start, size in self._windows(lane, length):
                if skipped >= start + size:
                    continue
                if reader is None:
                    reader = self._read(epoch, lane * length + start, length - start)
                window = list(islice(reader, size))
                order = np.random.default_rng([self._seed, epoch, lane, start]).permutation(size)
                for at in order[max(0, skipped - start) :]:
                    yield self._show(window, int(at))
            epoch, skipped = epoch + 1, 0

    def _windows(self, lane: int, length: int) -> Iterator[tuple[int, int]]:
        """Give start and size of the windows of *lane*, none of which is a small rest."""
        half = self._window // 2
        size = max(1, half + half * (lane + 1) // self.readers)  # not all lanes come to an end of theirs at once
        start = 0
        while start < length:
            if length - start - size < half:
                size = length - start
            yield start, size
            start, size = start + size, self._window

    def _read(self, epoch: int, first: int, count: int) -> Iterator[_Read]:
        """Give *count* samples of the row of *epoch*, from its place *first* on."""
        for visit in self._visits(epoch):
            length = visit.stop - visit.start
            if first >= length:
                first -= length
                continue
            taken = min(length - first, count)
            yield from _read_shard(visit, visit.start + first, taken)
            first, count = 0, count - taken
            if count == 0:
                return

    def _visits(self, epoch: int) -> list[_Visit]:
        """Return the shards of *epoch* in their order; sources that are passed over in part have parts of shards."""
        made = []
        for number, (source, usable, wanted) in enumerate(
            zip(self._sources, self._plan.usable, self._plan.wanted, strict=True)
        ):
            for part in parts(usable, wanted, epoch):
                order = np.random.default_rng([self._seed, part.pass_number, number, 2]).permutation(len(source.shards))
                before = 0
                for shard in (source.shards[place] for place in order):
                    count = usable_in(shard, source)
                    start, stop = max(part.start - before, 0), min(part.stop - before, count)
                    if start < stop:
                        made.append(_Visit(source, shard, part.pass_number, start, stop))
                    before += count
        mixed = np.random.default_rng([self._seed, epoch, 3]).permutation(len(made))
        return [made[place] for place in mixed]

    def _show(self, window: list[_Read], at: int) -> _Shown:
        """Return the sample *at* of *window*; of someone else's image that is damaged, one half a window away."""
        for step in range(len(window)):
            read = window[at if step == 0 else (at + len(window) // 2 + step - 1) % len(window)]
            pixels = self._decoder(read.image)
            if pixels is not None:
                sample, source = read.sample, read.visit.source
                taken = draw(
                    self._seed, sample.uid, read.visit.pass_number, sample.alttexts, len(sample.texts), source.mixed_p
                )
                return _Shown(sample.uid, sample.texts[taken], pixels)
            if read.visit.source.own:
                raise CorruptError(f"{read.visit.shard.name} holds an image that cannot be read; run `vecap verify`")
            log.warning("%s: an image at byte %d cannot be decoded", read.visit.shard.name, read.sample.offset)
        raise CorruptError(f"{window[0].visit.shard.name} holds no image that can be read; take it out of the mixture")


def usable_in(shard: Shard, source: Source) -> int:
    """Return how many samples of *shard* have a text for the arm of *source*; they must have been counted."""
    if shard.usable is None:
        raise ValueError(f"{shard.name} was not counted")
    return shard.usable[source.arm]


def _read_shard(visit: _Visit, first: int, count: int) -> Iterator[_Read]:
    """Give *count* samples of the shard from its usable sample *first* on. Raises CorruptError where it has fewer."""
    with visit.shard.open() as stream:
        left = count
        for sample in islice(read_samples(stream, visit.shard, visit.source), first, first + count):
            stream.seek(sample.offset)
            yield _Read(visit, sample, stream.read(sample.size))
            left -= 1
    if left:
        raise CorruptError(f"{visit.shard.name} has {left} samples less than were counted; was it changed since?")
