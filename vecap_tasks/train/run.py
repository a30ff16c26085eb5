"""One run from its names to its last state, in whatever process: what the stage and torchrun's workers both do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerFast

from vecap_tasks.config import Config
from vecap_tasks.dataset.version import Version
from vecap_tasks.train.checkpoint import Checkpoints, State
from vecap_tasks.train.data import open_training_data
from vecap_tasks.train.loop import fit
from vecap_tasks.train.meter import Progress
from vecap_tasks.train.model import open_model
from vecap_tasks.train.names import parse_run
from vecap_tasks.train.ranks import Ranks
from vecap_tasks.train.tokenizer import load_tokenizer

log = logging.getLogger(__name__)

_LOG_SECONDS = 5.0


def train(
    config: Config,
    version: Version,
    run: str,
    ranks: Ranks,
    checkpoints: Checkpoints,
    reports: Sequence[Callable[[Progress], None]] = (),
) -> State:
    """Train *run*, such as `mixed-0`, on *version*; return its state after the last step.

    Raises what `open_training_data`, `open_model` and `fit` do.
    """
    arm, seed = parse_run(run)
    tokenizer: PreTrainedTokenizerFast = load_tokenizer(config)
    model = open_model(config, tokenizer, seed)
    data = open_training_data(config, version, arm, seed, tokenizer)
    log.info("%s: %d samples, %d without a text left out", run, data.samples, data.left_out)
    return fit(run, model, data, config.train, seed, ranks, checkpoints, _reporter(reports))


def _reporter(further: Sequence[Callable[[Progress], None]]) -> Callable[[Progress], None]:
    """Return what is called at every step: it logs a line now and then, and passes the step on to each of *further*."""
    last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LOG_SECONDS or progress.record.step == progress.steps:
            last = now
            log.info("%s", progress)
        for one in further:
            one(progress)

    return report
