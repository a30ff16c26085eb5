"""Opens the training data of a run; it depends only on configuration, version, arm and seed."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from transformers import PreTrainedTokenizerFast

from vecap_tasks.config import Config
from vecap_tasks.core.version import Version
from vecap_tasks.errors import CorruptError
from vecap_tasks.train.data.epoch import (
    Batch,
    EpochOrder,
    RunPlan,
    TextDraws,
    TrainingData,
    epoch_order,
    plan_run,
    prefetch,
    rank_range,
)
from vecap_tasks.train.data.features import FeatureCache
from vecap_tasks.train.data.images import Decoder, Images, Index, open_images
from vecap_tasks.train.data.iterable_dataset import IterableTrainingData, usable_count
from vecap_tasks.train.data.mixture_builder import is_streamed, training_sources
from vecap_tasks.train.data.samples import Source

log = logging.getLogger(__name__)


def open_training_data(
    config: Config,
    version: Version,
    arm: str,
    seed: int,
    tokenizer: PreTrainedTokenizerFast,
    features: FeatureCache | None = None,
) -> TrainingData:
    """Return the training data of the run *arm*-*seed* on *version*, or on the configured mixture.

    Up to `train.reading.stream_above` samples are shuffled globally; *features*, if given, replace their images.
    Otherwise decoded images are cached in memory if they fit into `train.image_cache_bytes`. Larger data is streamed
    shard by shard.
    Raises VecapError if there are too few samples or a source is missing, and CorruptError if a source changed.
    """
    settings = config.training
    run = f"{arm}-{seed}"
    sources = training_sources(config, version, arm)
    draws = [TextDraws.of(settings, source.texts, seed) for source in sources]
    decoder = Decoder(settings.model.image_size, settings.model.preprocess)
    if is_streamed(config, sources):
        usable = [sum(map(usable_count, source.shards)) for source in sources]
        plan = plan_run(run, sources, usable, settings)
        threads = settings.loader_threads
        return IterableTrainingData(sources, draws, plan, decoder, tokenizer, settings.reading, seed, threads)
    index = Index(sources, draws, tokenizer)
    plan = plan_run(run, sources, [stats.usable for stats in index.stats], settings)
    for source, stats in zip(sources, index.stats, strict=True):
        _check(source, stats.samples - sum(stats.skipped.values()))
    if features is not None:
        return MapTrainingData(index, features.read(index, decoder), plan, seed)
    images = open_images(index, decoder, cache_bytes=settings.image_cache_bytes, threads=settings.loader_threads)
    return MapTrainingData(index, images, plan, seed)


def _check(source: Source, samples: int) -> None:
    if samples != source.samples:
        raise CorruptError(
            f"{source.name} has {samples} samples, {source.samples} expected; it changed after counting, restore it"
        )


class MapTrainingData:
    """`TrainingData` with random access over an index. Each epoch is a permutation of all its samples."""

    def __init__(self, index: Index, images: Images, plan: RunPlan, seed: int) -> None:
        self.samples, self.left_out, self.batch_size = plan.samples, plan.left_out, plan.batch_size
        self.steps_per_epoch, self.steps = plan.steps_per_epoch, plan.steps
        self._index = index
        self._images = images
        self._plan = plan
        self._seed = seed
        self._order: tuple[int, EpochOrder] | None = None

    def batches(self, first: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        rows = rank_range(self.batch_size, rank, world_size)
        return prefetch(lambda step: self._load(step, rows), first, self.steps)

    def _load(self, step: int, rows: range) -> Batch:
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(self._plan.usable, self._plan.quotas, self._seed, epoch)
        order = self._order[1]
        selected = slice(index * self.batch_size + rows.start, index * self.batch_size + rows.stop)
        passes = order.passes[selected]
        images, numbers = self._images.take(order.numbers[selected])
        ids = self._index.tokens(numbers, passes)
        return Batch(step, epoch, index, self._index.uids(numbers), images, ids)
