"""Results of a released model on evaluation sets, without a version."""

from __future__ import annotations

import torch

from vecap_tasks.config import Config
from vecap_tasks.core.models import init_folder
from vecap_tasks.core.preprocess import image_processor
from vecap_tasks.core.temporary import temporary_folder
from vecap_tasks.errors import ConfigError
from vecap_tasks.evaluate.features import Encoder, measure
from vecap_tasks.evaluate.results import Results, summarize_sets
from vecap_tasks.evaluate.sets import read_sets
from vecap_tasks.evaluate.sets.loader import sets_digests
from vecap_tasks.train.data.tokenizer import load_tokenizer
from vecap_tasks.train.model import create_model, export, image_statistics


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
    with temporary_folder() as folder:
        processor = image_processor(model.image_size, model.preprocess, image_statistics(config))
        export(create_model(config, tokenizer, seed=0), tokenizer, processor, folder)
        answers, _ = measure(Encoder(folder, settings.device, settings.batch_size), sets, digests, settings.ties)
    return summarize_sets({("released", 0): answers}, sets, digests, settings.bootstrap)
