"""Results on evaluation sets: of the models of a version, or of a released model without a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vecap_tasks.config import BootstrapConfig, Config
from vecap_tasks.core.models import init_folder
from vecap_tasks.core.preprocess import image_processor
from vecap_tasks.errors import ConfigError
from vecap_tasks.evaluate.features import Encoder, measure
from vecap_tasks.evaluate.metrics import Answers, chances_of
from vecap_tasks.evaluate.results import Results, SetSize, summarize
from vecap_tasks.evaluate.sets import EvaluationSets, read_sets
from vecap_tasks.evaluate.sets.loader import sets_digests
from vecap_tasks.train.data.tokenizer import load_tokenizer
from vecap_tasks.train.model import create_model, export, image_statistics


def summarize_sets(
    runs: Mapping[tuple[str, int], Sequence[Answers]],
    sets: EvaluationSets,
    digests: Sequence[str],
    settings: BootstrapConfig,
) -> Results:
    """Return the results of the models *runs* (by arm and seed) on all *sets*, whose *digests* are in their order."""
    captions = {dataset.name: dataset.captions for dataset in sets.retrieval}
    return summarize(runs, _sizes(sets, digests), chances_of(sets), captions, settings)


def _sizes(sets: EvaluationSets, digests: Sequence[str]) -> list[SetSize]:
    remaining = iter(digests)
    sizes = [SetSize(s.name, "retrieval", len(s.images), len(s.captions), 0, next(remaining)) for s in sets.retrieval]
    sizes += [SetSize(s.name, "zero_shot", len(s.images), 0, len(s.classes), next(remaining)) for s in sets.zero_shot]
    sizes += [
        SetSize(s.name, "choices", len(s.images), len(s.captions), len(s.groups), next(remaining)) for s in sets.choices
    ]
    return sizes + [
        SetSize(s.name, "linear_probe", len(s.images) - s.train, 0, len(s.classes), next(remaining))
        for s in sets.linear_probe
    ]


def evaluate_released(config: Config) -> Results:
    """Evaluate the model of `train.model.init_from`, without training, on the sets of *config*; stores nothing.

    It gets the image size, preprocessing and tokenizer of `train.model`. Raises ConfigError if there is no such model,
    or if it does not fit these settings, and VecapError for an unusable set.
    """
    if init_folder(config) is None:
        raise ConfigError("train.model.init_from names no model to evaluate; set it to the folder of a CLIPModel")
    settings, model = config.evaluation, config.training.model
    torch.set_num_threads(config.training.threads)
    sets = read_sets(config)
    digests = list(sets_digests(sets, cached=True).values())
    tokenizer = load_tokenizer(config)
    with TemporaryDirectory(prefix="vecap-model-") as name:
        folder = Path(name)
        processor = image_processor(model.image_size, model.preprocess, image_statistics(config))
        export(create_model(config, tokenizer, seed=0), tokenizer, processor, folder)
        answers, _ = measure(Encoder(folder, settings.device, settings.batch_size), sets, digests, settings.ties)
    return summarize_sets({("released", 0): answers}, sets, digests, settings.bootstrap)
