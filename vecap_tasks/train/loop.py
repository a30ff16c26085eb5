"""The training loop: symmetric InfoNCE over batches whose order, texts and crops follow from the seed and the epoch.

Nothing random is drawn from a running generator, so a run that goes on from a checkpoint has the same losses and the
same weights, bit by bit, as one that was never stopped.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import CLIPModel

from vecap_tasks.config import TrainConfig
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.train.batch import TrainingData
from vecap_tasks.train.checkpoint import Checkpoint, State, StepRecord
from vecap_tasks.train.crop import Normalise
from vecap_tasks.train.optimizer import learning_rate, new_optimizer

_LARGEST_LOG_SCALE = math.log(100)  # the bound of CLIP's logit scale (Radford et al., 2021)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is. `seconds_left` is an estimate from the speed of this process."""

    run: str
    record: StepRecord
    steps: int
    samples_per_second: float
    seconds_left: float

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left), 60)
        return (
            f"{self.run}  step {self.record.step}/{self.steps}  epoch {self.record.epoch}  "
            f"loss {self.record.loss:.4f}  rate {self.record.learning_rate:.2e}  scale {self.record.logit_scale:.1f}  "
            f"norm {self.record.gradient_norm:.2f}  {self.samples_per_second:.0f} samples/s  "
            f"{minutes}:{seconds:02d} left"
        )


def fit(
    run: str,
    model: CLIPModel,
    data: TrainingData,
    config: TrainConfig,
    seed: int,
    checkpoint: Checkpoint,
    report: Callable[[Progress], None],
) -> list[StepRecord]:
    """Train *model* in place, from the checkpoint on if there is one; return the records of all steps.

    Raises VecapError, naming the batch, when a loss is not finite.
    """
    device = torch.device(choose_device(config.device))
    model.to(device).train()
    optimizer = new_optimizer(model, config)
    records: list[StepRecord] = []
    state = checkpoint.load()
    if state is not None:
        model.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
        records = list(state.records)
    steps = data.steps
    normalise = Normalise(seed, config.crop_scale, device)
    autocast = _autocast(config, device)
    first, start = len(records), time.monotonic()
    with _reproducible(config.threads):
        for batch in data.batches(first):
            step = batch.step
            ids = torch.from_numpy(batch.ids).to(device, torch.int64)
            pixels = normalise(batch.pixels, step)
            rate = learning_rate(step, steps, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                images = model.get_image_features(pixel_values=pixels).pooler_output
                texts = model.get_text_features(input_ids=ids).pooler_output
            loss = contrastive_loss(images.float(), texts.float(), model.logit_scale)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise VecapError(
                    f"{run}: the loss is {value} at step {step + 1} (epoch {batch.epoch + 1}, "
                    f"batch {batch.place + 1}, which begins with sample {batch.uids[0]}); lower train.learning_rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, _LARGEST_LOG_SCALE)
            scale = float(model.logit_scale.detach().exp())
            records.append(StepRecord(step + 1, batch.epoch + 1, value, rate, scale, float(norm)))
            if (step + 1) % config.checkpoint_steps == 0 and step + 1 < steps:
                checkpoint.save(State(model.state_dict(), optimizer.state_dict(), records))
            speed = (step + 1 - first) / max(time.monotonic() - start, 1e-9)
            report(Progress(run, records[-1], steps, speed * data.batch_size, (steps - step - 1) / speed))
    return records


def contrastive_loss(images: torch.Tensor, texts: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Return the symmetric InfoNCE loss of features [n, d] whose rows belong together (Radford et al., 2021)."""
    logits = log_scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    targets = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def choose_device(wanted: str) -> str:
    """Return the torch device for *wanted*: `auto` is a GPU where there is one. Raises ConfigError for no GPU."""
    found = torch.cuda.is_available()
    if wanted.startswith("cuda") and not found:
        raise ConfigError(f"train.device: there is no GPU for {wanted!r}; use auto or cpu")
    chosen = wanted if wanted != "auto" else "cuda" if found else "cpu"
    if chosen.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is reproducible with it alone
    return chosen


def _autocast(config: TrainConfig, device: torch.device) -> bool:
    return config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")


@contextmanager
def _reproducible(threads: int) -> Iterator[None]:
    """Compute deterministically on *threads* CPU threads within the block, and as before after it."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
