"""The training loop, for one process or several: optimizer, learning rate schedule, steps and checkpoints."""

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
from transformers import PreTrainedTokenizerFast

from vecap_tasks.config import Config, TrainConfig, expand_optional
from vecap_tasks.core.preprocess import CLIP_STATISTICS, Statistics
from vecap_tasks.core.version import Version
from vecap_tasks.errors import ConfigError, PermanentError, VecapError, format_error
from vecap_tasks.train import mixed_precision
from vecap_tasks.train.checkpoint import Checkpoints, DataStats, Speed, StepRecord, TrainingState, parse_run
from vecap_tasks.train.data.epoch import Batch, TrainingData
from vecap_tasks.train.data.features import FeatureCache
from vecap_tasks.train.data.images import Normalize, Pixels
from vecap_tasks.train.data.loader import open_training_data
from vecap_tasks.train.data.tokenizer import load_tokenizer
from vecap_tasks.train.distributed import ProcessGroup
from vecap_tasks.train.loss import Objective
from vecap_tasks.train.model import create_model, image_statistics
from vecap_tasks.train.model_forward import MicroBatch, build_towers, forward_backward
from vecap_tasks.train.signals import Interrupted, StopRequest, catch_sigterm
from vecap_tasks.train.throughput import Progress, ThroughputMeter
from vecap_tasks.train.towers import ClipModel

log = logging.getLogger(__name__)

_ADAM_EPSILON = 1e-6  # open_clip's value for ViT models
_DETERMINISTIC: Any = torch.utils.deterministic  # mypy does not know its property
_SPEED_INTERVAL = 10.0  # seconds between speed records
_LOG_INTERVAL = 5.0  # seconds between log lines


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only: not on biases, norms, class embedding or logit scale."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=_ADAM_EPSILON, fused=True)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Return the learning rate at *step* (from 0) of *steps*: linear warmup, then cosine decay to 0."""
    warmup = min(config.warmup_steps, steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def fit(
    run: str,
    model: ClipModel,
    data: TrainingData,
    config: TrainConfig,
    seed: int,
    process_group: ProcessGroup,
    checkpoints: Checkpoints,
    report: Callable[[Progress], None],
    statistics: Statistics = CLIP_STATISTICS,
) -> TrainingState:
    """Train *model* in place, resuming from the last checkpoint if there is one; return the final state.

    All ranks must call it with equal weights; rank 0 saves and reports. Raises VecapError if a loss is not finite or
    the GPU runs out of memory, and Interrupted on SIGTERM, after a checkpoint.
    """
    try:
        trainer = _Trainer(run, model, data, config, seed, process_group, checkpoints, statistics)
        with _deterministic(config), catch_sigterm() as stop_request:
            return trainer.train(stop_request, report)
    except torch.OutOfMemoryError as error:
        samples = config.micro_batch or data.batch_size // process_group.world_size
        raise VecapError(
            f"{run}: {process_group.device} is out of memory with {samples} samples at once; lower train.micro_batch "
            "or set train.activation_checkpointing to true"
        ) from error


@dataclass(frozen=True, slots=True)
class _PendingStep:
    """A step whose metrics are being copied from the device."""

    batch: Batch
    learning_rate: float
    metrics: torch.Tensor  # loss, gradient norm, logit scale, whether to stop
    copied: torch.cuda.Event | None

    def read(self) -> list[float]:
        if self.copied is not None:
            self.copied.synchronize()
        values: list[float] = self.metrics.tolist()
        return values


class _Trainer:
    """Trains one run. Reads the metrics of a step while the next one runs, so that a GPU never waits."""

    def __init__(
        self,
        run: str,
        model: ClipModel,
        data: TrainingData,
        config: TrainConfig,
        seed: int,
        process_group: ProcessGroup,
        checkpoints: Checkpoints,
        statistics: Statistics,
    ) -> None:
        self._run, self._data, self._config, self._process_group, self._checkpoints = (
            run,
            data,
            config,
            process_group,
            checkpoints,
        )
        self._model = model.to(process_group.device).train()
        self._objective = Objective(config.loss, model.logit_scale, process_group)
        if expand_optional(config.model.init_from) is None:
            self._objective.reset_parameters()
        trainable = nn.ModuleList([model, self._objective])
        self._parameters = [parameter for parameter in trainable.parameters() if parameter.requires_grad]
        self._optimizer = build_optimizer(trainable, config)
        self._average = {} if config.ema_decay is None else _trained(model)
        self._data_stats = DataStats(data.samples, data.left_out, data.batch_size, data.steps)
        self._records: list[StepRecord] = []
        self._speeds: list[Speed] = []
        self._resume()
        self._autocast = mixed_precision.configure_precision(model, config.precision, process_group.device)
        self._towers = build_towers(model, config, process_group)
        self._normalize = Normalize(seed, config.crop_scale, process_group.device, statistics)
        self._meter = ThroughputMeter(model, data.batch_size, process_group)

    def _resume(self) -> None:
        """Load the last state that rank 0 can read."""
        state = self._checkpoints.load() if self._process_group.rank == 0 else None
        step = self._process_group.broadcast(len(state.records) if state else 0)
        if step and state is None:
            state = self._checkpoints.load_step(step)
            if state is None:
                raise VecapError(
                    f"{self._run}: rank {self._process_group.rank} cannot read the checkpoint of step {step}; "
                    "check that all nodes share the store"
                )
        if state is not None:
            self._model.load_state_dict(state.model)
            self._objective.load_state_dict(state.objective)
            self._optimizer.load_state_dict(state.optimizer)
            for name, value in state.average.items():
                self._average[name].copy_(value)
            self._records, self._speeds = list(state.records), list(state.speeds)

    def train(self, stop_request: StopRequest, report: Callable[[Progress], None]) -> TrainingState:
        steps = self._data.steps
        pending: _PendingStep | None = None
        wait_start = time.monotonic()
        for batch in self._data.batches(len(self._records), self._process_group.rank, self._process_group.world_size):
            waited = time.monotonic() - wait_start
            current = self._step(batch, stop_request)
            stop = pending is not None and self._record(pending, report)
            pending = current
            self._meter.add(waited, *batch.ids.shape[1:])
            done = batch.step + 1
            if stop or (done % self._config.checkpoint_steps == 0 and done < steps):
                stop = self._record(current, report) or stop
                pending = None
                self._save()
                if stop:
                    raise Interrupted(
                        f"{self._run}: received SIGTERM, saved a checkpoint after step {done} of {steps}; "
                        "run the same command again to resume"
                    )
            wait_start = time.monotonic()
        if pending is not None:
            self._record(pending, report)
        return self._state()

    def _step(self, batch: Batch, stop_request: StopRequest) -> _PendingStep:
        rate = learning_rate(batch.step, self._data.steps, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss = forward_backward(self._towers, self._objective, self._micro_batches(batch), self._autocast)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.gradient_clip)
        self._optimizer.step()
        self._objective.clamp()
        self._update_average()
        scale = self._objective.log_scale.detach().exp()
        stop = torch.full_like(loss, stop_request.requested)
        metrics = self._process_group.all_reduce_mean(torch.stack([loss, norm, scale, stop]))
        copied = None
        if metrics.is_cuda:
            metrics = metrics.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        return _PendingStep(batch, rate, metrics, copied)

    @torch.no_grad()
    def _update_average(self) -> None:
        if self._average:
            new = 1 - (self._config.ema_decay or 0)
            torch._foreach_lerp_([*self._average.values()], [*_trained(self._model, copy=False).values()], new)

    def _micro_batches(self, batch: Batch) -> list[MicroBatch]:
        images, ids = torch.from_numpy(batch.images), torch.from_numpy(batch.ids)
        device = self._process_group.device
        if device.type == "cuda":
            images, ids = images.pin_memory(), ids.pin_memory()
        ids = ids.to(device, torch.int64, non_blocking=True)
        count = self._config.micro_batch or len(ids)
        slices = [slice(first, first + count) for first in range(0, len(ids), count)]
        if images.ndim == 2:  # outputs of a locked tower
            return [MicroBatch(partial(images[rows].to, device, non_blocking=True), ids[rows]) for rows in slices]
        return [
            MicroBatch(partial(self._normalize, images[rows], batch.uids[rows], batch.epoch), ids[rows])
            for rows in slices
        ]

    def _record(self, pending: _PendingStep, report: Callable[[Progress], None]) -> bool:
        """Record a step. Return whether any process received SIGTERM."""
        loss, norm, scale, stop = pending.read()
        batch = pending.batch
        if not math.isfinite(loss):
            raise PermanentError(
                f"{self._run}: loss is {loss} at step {batch.step + 1} (epoch {batch.epoch + 1}, "
                f"batch {batch.index + 1}, first sample {batch.uids[0]}); lower train.learning_rate"
            )
        record = StepRecord(batch.step + 1, batch.epoch + 1, loss, pending.learning_rate, scale, norm)
        self._records.append(record)
        if self._process_group.rank == 0:
            speed = self._meter.speed(record.step)
            steps = self._data.steps
            if not self._speeds or speed.time - self._speeds[-1].time >= _SPEED_INTERVAL or record.step == steps:
                self._speeds.append(speed)
            left = (steps - record.step) * self._data.batch_size / speed.samples_per_second
            report(Progress(self._run, record, steps, speed, left))
        return stop > 0

    def _state(self) -> TrainingState:
        model, objective, optimizer = (part.state_dict() for part in (self._model, self._objective, self._optimizer))
        return TrainingState(model, objective, optimizer, self._records, self._speeds, self._data_stats, self._average)

    def _save(self) -> None:
        if self._process_group.rank == 0:
            self._checkpoints.save(self._state())
        self._process_group.barrier()


def _trained(model: nn.Module, *, copy: bool = True) -> dict[str, torch.Tensor]:
    """Return the weights of *model* that are trained, by name."""
    trained = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    return {name: value.clone() for name, value in trained.items()} if copy else trained


@contextmanager
def _deterministic(config: TrainConfig) -> Iterator[None]:
    """Apply the configured CPU threads and determinism within the block, then restore the previous settings.

    Raises ConfigError if an operation has no deterministic implementation on the device.
    """
    previous = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill_memory = _DETERMINISTIC.fill_uninitialized_memory
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(config.deterministic)  # with warn_only, attention on a GPU is not deterministic
    _DETERMINISTIC.fill_uninitialized_memory = False  # filling takes a tenth of each step
    try:
        yield
    except RuntimeError as error:
        if config.deterministic and "deterministic" in str(error):
            raise ConfigError(f"train.deterministic: {format_error(error)}; set it to false") from error
        raise
    finally:
        torch.set_num_threads(previous[0])
        torch.use_deterministic_algorithms(previous[1])
        _DETERMINISTIC.fill_uninitialized_memory = fill_memory


def train(
    config: Config,
    version: Version,
    run: str,
    process_group: ProcessGroup,
    checkpoints: Checkpoints,
    reports: Sequence[Callable[[Progress], None]] = (),
) -> TrainingState:
    """Train *run*, e.g. `mixed-0`, on *version* and return the final state.

    Raises the errors of `open_training_data`, `create_model` and `fit`.
    """
    arm, seed = parse_run(run)
    tokenizer: PreTrainedTokenizerFast = load_tokenizer(config)
    model = create_model(config, tokenizer, seed)
    statistics = image_statistics(config)
    settings = config.training
    with _deterministic(settings):
        features = feature_cache(model, settings, statistics, process_group, checkpoints)
        data = open_training_data(config, version, arm, seed, tokenizer, features)
    log.info("%s: %d samples per epoch, %d skipped without a text", run, data.samples, data.left_out)
    return fit(run, model, data, settings, seed, process_group, checkpoints, _reporter(reports), statistics)


def feature_cache(
    model: ClipModel,
    config: TrainConfig,
    statistics: Statistics,
    process_group: ProcessGroup,
    checkpoints: Checkpoints,
) -> FeatureCache | None:
    """Return the cache of the image tower's outputs; None if it is trained, or if crops change its input."""
    if not config.model.vision_locked or config.crop_scale < 1:
        return None
    tower = model.vision_model.to(process_group.device)
    normalize = Normalize(0, config.crop_scale, process_group.device, statistics)

    @torch.no_grad()
    def encode(pixels: Pixels) -> torch.Tensor:
        output: torch.Tensor = tower(pixel_values=normalize(torch.from_numpy(pixels), (), 0)).pooler_output
        return output.float()

    width = model.config.vision_config.hidden_size
    return FeatureCache(checkpoints.store, checkpoints.features, encode, width, process_group)


def _reporter(callbacks: Sequence[Callable[[Progress], None]]) -> Callable[[Progress], None]:
    """Return a callback for each step that logs at `_LOG_INTERVAL` and calls all *callbacks*."""
    last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LOG_INTERVAL or progress.record.step == progress.steps:
            last = now
            log.info("%s", progress)
        for callback in callbacks:
            callback(progress)

    return report
