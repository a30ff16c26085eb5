"""Opens the training data of a run; it depends only on configuration, version, arm and seed."""

from __future__ import annotations

import logging

from transformers import PreTrainedTokenizerFast

from vecap_tasks.config import Arm, Config
from vecap_tasks.core.version import Version
from vecap_tasks.errors import CorruptError
from vecap_tasks.train.data.epoch import plan_run
from vecap_tasks.train.data.images import Decoder, Index, open_images
from vecap_tasks.train.data.iterable_dataset import IterableTrainingData, usable_count
from vecap_tasks.train.data.map_dataset import MapTrainingData
from vecap_tasks.train.data.mixture_builder import is_streamed, training_sources
from vecap_tasks.train.data.prefetch import TrainingData
from vecap_tasks.train.data.samples import Source

log = logging.getLogger(__name__)


def open_training_data(
    config: Config, version: Version, arm: Arm, seed: int, tokenizer: PreTrainedTokenizerFast
) -> TrainingData:
    """Return the training data of the run *arm*-*seed* on *version*, or on the configured mixture.

    Up to `train.reading.stream_above` samples are shuffled globally, and their decoded images are cached in memory if
    they fit into `train.image_cache_bytes`. Larger data is streamed shard by shard. Raises VecapError if there are too
    few samples or a source is missing, and CorruptError if a source changed.
    """
    settings = config.training
    run = f"{arm}-{seed}"
    sources = training_sources(config, version, arm)
    decoder = Decoder(settings.model.image_size, settings.model.preprocess)
    if is_streamed(config, sources):
        usable = [sum(usable_count(shard, source) for shard in source.shards) for source in sources]
        plan = plan_run(run, sources, usable, settings)
        return IterableTrainingData(sources, plan, decoder, tokenizer, settings.reading, seed, settings.loader_threads)
    index = Index(sources, tokenizer)
    plan = plan_run(run, sources, [stats.usable for stats in index.stats], settings)
    for source, stats in zip(sources, index.stats, strict=True):
        _check(source, stats.samples - sum(stats.skipped.values()))
    images = open_images(index, decoder, cache_bytes=settings.image_cache_bytes, threads=settings.loader_threads)
    return MapTrainingData(index, images, plan, seed)


def _check(source: Source, samples: int) -> None:
    if samples != source.samples:
        raise CorruptError(
            f"{source.name} has {samples} samples, {source.samples} expected; it changed after counting, restore it"
        )
