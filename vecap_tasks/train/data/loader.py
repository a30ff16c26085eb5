"""What a run is trained on, opened: by configuration, version, arm and seed alone, in whatever process."""

from __future__ import annotations

import logging

from transformers import PreTrainedTokenizerFast

from vecap_tasks.config import Arm, Config
from vecap_tasks.core.version import Version
from vecap_tasks.errors import CorruptError
from vecap_tasks.train.data.epoch import plan_run
from vecap_tasks.train.data.images import Decoder, Index, open_images
from vecap_tasks.train.data.iterable_dataset import StreamedData, usable_in
from vecap_tasks.train.data.map_dataset import ShuffledData
from vecap_tasks.train.data.mixture_builder import streams, training_sources
from vecap_tasks.train.data.prefetch import TrainingData
from vecap_tasks.train.data.samples import Source

log = logging.getLogger(__name__)


def open_training_data(
    config: Config, version: Version, arm: Arm, seed: int, tokenizer: PreTrainedTokenizerFast
) -> TrainingData:
    """Return the training data of the run of *arm* and *seed* on *version*, or on the mixture that is configured.

    A set of up to `train.reading.stream_above` samples is shuffled as a whole, and its images are kept decoded in
    memory where they fit into `train.image_cache_bytes`; a larger one is read shard by shard. Raises VecapError where
    there is too little to train on or a source is not there, CorruptError for one that is not as it was.
    """
    settings = config.train
    run = f"{arm}-{seed}"
    sources = training_sources(config, version, arm)
    decoder = Decoder(settings.model.image_size, settings.model.preprocess)
    if streams(config, sources):
        usable = [sum(usable_in(shard, source) for shard in source.shards) for source in sources]
        plan = plan_run(run, sources, usable, settings)
        return StreamedData(sources, plan, decoder, tokenizer, settings.reading, seed, settings.loader_threads)
    index = Index(sources, tokenizer)
    plan = plan_run(run, sources, [stats.usable for stats in index.tallies], settings)
    for source, stats in zip(sources, index.tallies, strict=True):
        _check(source, stats.samples - sum(stats.skipped.values()))
    images = open_images(index, decoder, cache_bytes=settings.image_cache_bytes, threads=settings.loader_threads)
    return ShuffledData(index, images, plan, seed)


def _check(source: Source, samples: int) -> None:
    if samples != source.samples:
        raise CorruptError(f"{source.name} has {samples} samples, {source.samples} were counted; was it changed since?")
