"""Epochs: the samples per source, their order and texts, the steps of a run; batches, and a thread that reads ahead."""

from __future__ import annotations

import hashlib
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vecap_tasks.config import SubCaptionConfig, Text, TrainConfig, Weights
from vecap_tasks.errors import ConfigError, PermanentError
from vecap_tasks.train.data.samples import Source


@dataclass(frozen=True, slots=True)
class PassSlice:
    """The positions `start` to `stop` (exclusive) of one pass (from 0) over a source."""

    pass_number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class EpochOrder:
    """The samples of an epoch in order: sample numbers, and for each the pass over its source."""

    numbers: NDArray[np.int64]
    passes: NDArray[np.int64]


def quota(samples: int, weight: float) -> int:
    """Return the samples per epoch of a source of *samples*: their product, computed in decimal and rounded half up."""
    return math.floor(Fraction(str(weight)) * samples + Fraction(1, 2))


def pass_slices(samples: int, quota: int, epoch: int) -> Iterator[PassSlice]:
    """Yield the slices of passes over *samples* that contain the *quota* samples of *epoch*."""
    first, left = epoch * quota, quota
    while left:
        pass_number, start = divmod(first, samples)
        stop = min(samples, start + left)
        yield PassSlice(pass_number, start, stop)
        first, left = first + stop - start, left - (stop - start)


def epoch_order(samples: Sequence[int], quotas: Sequence[int], seed: int, epoch: int) -> EpochOrder:
    """Return the order of an epoch over sources of *samples*, numbered consecutively, with *quotas* samples each."""
    numbers, passes = [], []
    first = 0
    for source, (count, source_quota) in enumerate(zip(samples, quotas, strict=True)):
        for part in pass_slices(count, source_quota, epoch):
            selected = np.arange(count)
            if part.stop - part.start < count:
                rng = np.random.default_rng([seed, part.pass_number, source, 1])
                selected = rng.permutation(count)[part.start : part.stop]
            numbers.append(selected + first)
            passes.append(np.full(len(selected), part.pass_number))
        first += count
    order = np.random.default_rng([seed, epoch]).permutation(sum(quotas))
    return EpochOrder(np.concatenate(numbers)[order], np.concatenate(passes)[order])


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The size of a run. Per source: `usable` samples with a text for the arm, and `quotas`, the samples per epoch."""

    usable: tuple[int, ...]
    quotas: tuple[int, ...]
    samples: int  # per epoch, with a text
    left_out: int  # per epoch, without a text
    batch_size: int  # global, in samples
    steps_per_epoch: int
    steps: int


def plan_run(run: str, sources: Sequence[Source], usable: Sequence[int], config: TrainConfig) -> RunPlan:
    """Return the plan of *run* over *sources* with *usable* samples each.

    `epochs` counts all samples, with a text for the arm or not, so that all arms have the same number of steps. Raises
    VecapError if a source has no usable samples, or if there are fewer than two in total.
    """
    for source, count in zip(sources, usable, strict=True):
        if count == 0 and len(sources) > 1:
            raise PermanentError(
                f"train {run}: none of the {source.samples} samples of {source.name} has {' or '.join(source.texts)}; "
                "set the source's `arm` or `texts` in train.mixture"
            )
    quotas = tuple(quota(count, source.weight) for source, count in zip(sources, usable, strict=True))
    total = sum(quota(source.samples, source.weight) for source in sources)
    samples = sum(quotas)
    if samples < 2:
        raise PermanentError(
            f"train {run}: {samples} of {total} samples have a text for the arm {run.partition('-')[0]}; "
            "contrastive training needs at least 2"
        )
    size = min(config.batch_size, samples)
    steps = max(1, config.epochs * total // size)
    return RunPlan(tuple(usable), quotas, samples, total - samples, size, samples // size, steps)


_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])")  # of Latin and of CJK scripts


@dataclass(frozen=True, slots=True)
class Draw:
    """The text number `variant` of a sample, counted over all its texts; `part` (64 bits) draws a part, None: all."""

    variant: int
    part: int | None = None


@dataclass(frozen=True, slots=True)
class TextDraws:
    """Draws texts by *weights*. A draw depends only on seed, uid and epoch, not on batch, process or other samples."""

    seed: int
    weights: Weights
    number: int = 1  # captions of each image
    sub_captions: SubCaptionConfig | None = None

    @classmethod
    def of(cls, config: TrainConfig, weights: Weights, seed: int) -> TextDraws:
        return cls(seed, weights, config.captions_per_image, config.sub_captions)

    def draw(self, uid: str, epoch: int, counts: Sequence[int]) -> list[Draw]:
        """Return the texts of the sample *uid* in *epoch*, `number` of them.

        *counts* are its variants of each text, in the order of `weights`; at least one is not 0. A missing text is
        replaced by the first one that the sample has; a text with weight 0 is used only if it has no other. A text is
        used again, in another variant, after all others.
        """
        key = f"{self.seed}/{uid}/{epoch}"
        texts = list(self.weights)
        present = [number for number, count in enumerate(counts) if count]
        available = [number for number in present if self.weights[texts[number]]] or present[:1]
        left: list[int] = []
        draws = []
        for index in range(self.number):
            left = left or list(available)
            text = self._choose(f"{key}/{index}" if index else key, left)
            left.remove(text)
            variant = 0
            if counts[text] > 1:
                first = _hash64(f"{key}/variant") * counts[text] >> 64
                variant = (first + index // len(available)) % counts[text]
            draws.append(Draw(sum(counts[:text]) + variant, self._part(f"{key}/part/{index}", texts[text])))
        return draws

    def _choose(self, key: str, left: Sequence[int]) -> int:
        """Return the drawn one of the texts *left* (indices in order), or the first if another one is drawn."""
        if len(left) == 1:
            return left[0]
        weights = list(self.weights.values())
        point, bound = _hash64(key), 0.0
        total = sum(weights)
        for text, weight in enumerate(weights):
            bound += weight
            if point < bound / total * 2.0**64:
                return text if text in left else left[0]
        return left[0]

    def _part(self, key: str, text: Text) -> int | None:
        settings = self.sub_captions
        if settings is None or text not in settings.texts:
            return None
        if _hash64(key) >= settings.probability * 2.0**64:
            return None
        return _hash64(f"{key}/sentence")

    def parts(self, text: Text, caption: str) -> list[str]:
        """Return *caption*, a variant of *text*, and its sentences if a draw can use one of them."""
        settings = self.sub_captions
        if settings is None or settings.kind != "sentence" or text not in settings.texts:
            return [caption]
        sentences = split_sentences(caption)
        return [caption, *sentences] if len(sentences) > 1 else [caption]

    def sentence(self, draw: Draw, parts: int) -> int:
        """Return the index of the part that *draw* chose of the *parts* of its text (`parts`), 0 for all of it."""
        return 0 if draw.part is None or parts == 1 else 1 + (draw.part * (parts - 1) >> 64)

    def text(self, draw: Draw, texts: Sequence[Sequence[str]]) -> str:
        """Return what *draw* chose of *texts*, the variants of each text."""
        named = [(name, text) for name, variants in zip(self.weights, texts, strict=True) for text in variants]
        parts = self.parts(*named[draw.variant])
        return parts[self.sentence(draw, len(parts))]

    def limit(self, draw: Draw) -> int:
        """Return the tokens that *draw* keeps of its text, without BOS and EOS; 0: all."""
        settings = self.sub_captions
        return settings.tokens if settings and settings.kind == "tokens" and draw.part is not None else 0


def split_sentences(text: str) -> list[str]:
    """Return the sentences of *text*, split after a full stop, a question mark or an exclamation mark."""
    return [sentence for part in _SENTENCE_END.split(text) if (sentence := part.strip())]


def _hash64(key: str) -> int:
    """Return a uniform 64-bit hash of *key*."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


_PREFETCH_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's slice of a global batch: `uids[i]`, `images[i]` and `ids[i]` are one sample."""

    step: int  # from 0
    epoch: int  # from 0
    index: int  # of the batch within the epoch, from 0
    uids: tuple[str, ...]
    images: NDArray[np.uint8] | NDArray[np.float32]  # [n, size, size, 3], or outputs [n, width] of a locked tower
    ids: NDArray[np.int32]  # [n, captions, tokens], padded to the longest text of the slice


class TrainingData(Protocol):
    """The samples of a run in batches, in memory or streamed.

    The samples, order and texts of a global batch depend only on seed, uid, epoch and mixture. `batch_size` must be a
    multiple of `world_size`; rank r gets the r-th of `world_size` equal slices of each global batch.
    """

    samples: int  # per epoch, with a text for the arm
    left_out: int  # per epoch, without one
    batch_size: int  # global, in samples
    steps_per_epoch: int
    steps: int  # of the whole run

    def batches(self, first: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield the batches of the steps *first* to `steps` - 1, prefetched."""


def rank_range(total: int, rank: int, world_size: int, what: str = "samples per batch (train.batch_size)") -> range:
    """Return the slice of *total* items that belongs to *rank*. Raises ConfigError if they do not divide evenly."""
    if total % world_size:
        raise ConfigError(
            f"{total} {what} cannot be split evenly among {world_size} processes; use a multiple of {world_size}"
        )
    count = total // world_size
    return range(rank * count, (rank + 1) * count)


def prefetch(load: Callable[[int], Batch], first: int, steps: int) -> Iterator[Batch]:
    """Yield load(first) to load(steps - 1), called in order on one thread, at most two ahead of the consumer."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    pending: deque[Future[Batch]] = deque()
    try:
        for step in range(first, steps):
            pending.append(pool.submit(load, step))
            if len(pending) > _PREFETCH_BATCHES:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
