"""The training loop: optimizer and learning rate, batches in, a trained model out, in one process or several."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import CLIPModel, PreTrainedTokenizerFast

from vecap_tasks.config import Config, TrainConfig, expand_optional
from vecap_tasks.core.version import Version
from vecap_tasks.errors import ConfigError, PermanentError, VecapError, format_error
from vecap_tasks.train import mixed_precision
from vecap_tasks.train.checkpoint import Checkpoints, Figures, Speed, State, StepRecord, parse_run
from vecap_tasks.train.data.images import Normalize
from vecap_tasks.train.data.loader import open_training_data
from vecap_tasks.train.data.prefetch import Batch, TrainingData
from vecap_tasks.train.data.tokenizer import load_tokenizer
from vecap_tasks.train.distributed import Ranks
from vecap_tasks.train.loss import Objective
from vecap_tasks.train.model import open_model
from vecap_tasks.train.model_forward import Part, add_gradients, new_towers
from vecap_tasks.train.signals import Interrupted, StopRequest, catch_sigterm
from vecap_tasks.train.throughput import Progress, ThroughputMeter

log = logging.getLogger(__name__)

_EPSILON = 1e-6  # as open_clip has for its ViT models
_FRESH_MEMORY: Any = torch.utils.deterministic  # its attribute is a property, of which mypy knows nothing
_SPEED_SECONDS = 10.0  # between lines about the speed
_LOG_SECONDS = 5.0


def new_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW that decays matrices alone: no biases, norms, class embedding or logit scale."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=_EPSILON, fused=True)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Return the rate of *step* (from 0) of *steps*."""
    warmup = min(config.warmup_steps, steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def fit(
    run: str,
    model: CLIPModel,
    data: TrainingData,
    config: TrainConfig,
    seed: int,
    ranks: Ranks,
    checkpoints: Checkpoints,
    report: Callable[[Progress], None],
) -> State:
    """Train *model* in place, from the last checkpoint on if there is one; return the state after the last step.

    Every rank calls it, with a model of the same weights; the first one saves and reports. Raises VecapError, naming
    the batch, when a loss is not finite, and where a GPU has too little memory, and Interrupted on SIGTERM, after a
    checkpoint.
    """
    try:
        trainer = _Trainer(run, model, data, config, seed, ranks, checkpoints)
        with _reproducible(config), catch_sigterm() as ending:
            return trainer.train(ending, report)
    except torch.OutOfMemoryError as error:
        held = config.micro_batch or data.batch_size // ranks.world
        raise VecapError(
            f"{run}: {ranks.device} has too little memory for {held} samples at once; lower train.micro_batch, "
            "or set train.activation_checkpointing to true"
        ) from error


@dataclass(frozen=True, slots=True)
class _Taken:
    """A step whose figures are on their way from the device."""

    batch: Batch
    rate: float
    figures: torch.Tensor  # loss, norm, scale, whether to end
    there: torch.cuda.Event | None

    def read(self) -> list[float]:
        if self.there is not None:
            self.there.synchronize()
        values: list[float] = self.figures.tolist()
        return values


class _Trainer:
    """The parts of one run. Figures of a step are read when the next one is under way, so that a GPU never waits."""

    def __init__(
        self,
        run: str,
        model: CLIPModel,
        data: TrainingData,
        config: TrainConfig,
        seed: int,
        ranks: Ranks,
        checkpoints: Checkpoints,
    ) -> None:
        self._run, self._data, self._config, self._ranks, self._checkpoints = run, data, config, ranks, checkpoints
        self._model = model.to(ranks.device).train()
        self._objective = Objective(config.loss, model.logit_scale, ranks)
        if expand_optional(config.model.init_from) is None:
            self._objective.reset_parameters()
        learned = nn.ModuleList([model, self._objective])
        self._parameters = list(learned.parameters())
        self._optimizer = new_optimizer(learned, config)
        self._figures = Figures(data.samples, data.left_out, data.batch_size, data.steps)
        self._records: list[StepRecord] = []
        self._speeds: list[Speed] = []
        self._resume()
        self._autocast = mixed_precision.configure_precision(model, config.precision, ranks.device)
        self._towers = new_towers(model, config, ranks)
        self._normalize = Normalize(seed, config.crop_scale, ranks.device)
        self._meter = ThroughputMeter(model, data.batch_size, ranks)

    def _resume(self) -> None:
        """Take up the last state that the first rank can read."""
        state = self._checkpoints.load() if self._ranks.rank == 0 else None
        done = self._ranks.broadcast_object(len(state.records) if state else 0)
        if done and state is None:
            state = self._checkpoints.load_step(done)
            if state is None:
                raise VecapError(f"{self._run}: the checkpoint after step {done} cannot be read by all processes")
        if state is not None:
            self._model.load_state_dict(state.model)
            self._objective.load_state_dict(state.objective)
            self._optimizer.load_state_dict(state.optimizer)
            self._records, self._speeds = list(state.records), list(state.speeds)

    def train(self, ending: StopRequest, report: Callable[[Progress], None]) -> State:
        steps = self._data.steps
        before: _Taken | None = None
        asked = time.monotonic()
        for batch in self._data.batches(len(self._records), self._ranks.rank, self._ranks.world):
            waited = time.monotonic() - asked
            taken = self._step(batch, ending)
            leave = before is not None and self._read(before, report)
            before = taken
            self._meter.add(waited, batch.ids.shape[1])
            done = batch.step + 1
            if leave or (done % self._config.checkpoint_steps == 0 and done < steps):
                leave = self._read(taken, report) or leave
                before = None
                self._save()
                if leave:
                    raise Interrupted(
                        f"{self._run}: told to end, and saved after step {done} of {steps}; "
                        "the same command goes on from there"
                    )
            asked = time.monotonic()
        if before is not None:
            self._read(before, report)
        return self._state()

    def _step(self, batch: Batch, ending: StopRequest) -> _Taken:
        rate = learning_rate(batch.step, self._data.steps, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss = add_gradients(self._towers, self._objective, self._parts(batch), self._autocast)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.gradient_clip)
        self._optimizer.step()
        self._objective.clamp()
        scale = self._objective.log_scale.detach().exp()
        figures = self._ranks.mean(torch.stack([loss, norm, scale, torch.full_like(loss, ending.asked)]))
        there = None
        if figures.is_cuda:
            figures = figures.to("cpu", non_blocking=True)
            there = torch.cuda.Event()
            there.record()
        return _Taken(batch, rate, figures, there)

    def _parts(self, batch: Batch) -> list[Part]:
        pixels, ids = torch.from_numpy(batch.pixels), torch.from_numpy(batch.ids)
        if self._ranks.device.type == "cuda":
            pixels, ids = pixels.pin_memory(), ids.pin_memory()
        ids = ids.to(self._ranks.device, torch.int64, non_blocking=True)
        count = self._config.micro_batch or len(ids)
        slices = [slice(first, first + count) for first in range(0, len(ids), count)]
        return [
            Part(partial(self._normalize, pixels[part], batch.uids[part], batch.epoch), ids[part]) for part in slices
        ]

    def _read(self, taken: _Taken, report: Callable[[Progress], None]) -> bool:
        """Record the step *taken*, and say whether a process was told to end."""
        loss, norm, scale, told = taken.read()
        batch = taken.batch
        if not math.isfinite(loss):
            raise PermanentError(
                f"{self._run}: the loss is {loss} at step {batch.step + 1} (epoch {batch.epoch + 1}, "
                f"batch {batch.place + 1}, which begins with sample {batch.uids[0]}); lower train.learning_rate"
            )
        record = StepRecord(batch.step + 1, batch.epoch + 1, loss, taken.rate, scale, norm)
        self._records.append(record)
        if self._ranks.rank == 0:
            speed = self._meter.speed(record.step)
            steps = self._data.steps
            if not self._speeds or speed.time - self._speeds[-1].time >= _SPEED_SECONDS or record.step == steps:
                self._speeds.append(speed)
            left = (steps - record.step) * self._data.batch_size / speed.samples_per_second
            report(Progress(self._run, record, steps, speed, left))
        return told > 0

    def _state(self) -> State:
        model, objective = self._model.state_dict(), self._objective.state_dict()
        return State(model, objective, self._optimizer.state_dict(), self._records, self._speeds, self._figures)

    def _save(self) -> None:
        if self._ranks.rank == 0:
            self._checkpoints.save(self._state())
        self._ranks.wait()


@contextmanager
def _reproducible(config: TrainConfig) -> Iterator[None]:
    """Compute on so many CPU threads within the block, deterministically where asked for, and as before after it.

    Raises ConfigError where that is asked for and the device cannot.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = _FRESH_MEMORY.fill_uninitialized_memory
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(config.deterministic)  # asked to warn alone, attention on a GPU is not
    _FRESH_MEMORY.fill_uninitialized_memory = False  # it helps who reads what was never written, at a tenth of a step
    try:
        yield
    except RuntimeError as error:
        if config.deterministic and "deterministic" in str(error):
            raise ConfigError(f"train.deterministic: {format_error(error)}; set it to false") from error
        raise
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        _FRESH_MEMORY.fill_uninitialized_memory = filled


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
