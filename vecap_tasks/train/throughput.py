"""How fast a run is: samples a second, the time left, memory, and how much of what the device can compute is used."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import psutil
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from vecap_tasks.train.checkpoint import Speed, StepRecord
from vecap_tasks.train.distributed import Ranks

_STEPS = 50  # that a rate is taken over
# Dense bfloat16 operations a second, without sparsity, as NVIDIA's data sheets have them; by a part of the name.
_PEAKS = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is. `seconds_left` is an estimate from the speed of the last steps."""

    run: str
    record: StepRecord
    steps: int
    speed: Speed
    seconds_left: float

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
        speed = self.speed
        memory = "" if speed.gpu_memory is None else f"  GPU {speed.gpu_memory / 2**30:.1f} GiB"
        used = "" if speed.mfu is None else f"  MFU {100 * speed.mfu:.0f} %"
        return (
            f"{self.run}  step {self.record.step}/{self.steps}  epoch {self.record.epoch}  "
            f"loss {self.record.loss:.4f}  rate {self.record.learning_rate:.2e}  scale {self.record.logit_scale:.1f}  "
            f"norm {self.record.gradient_norm:.2f}  {speed.samples_per_second:.0f} samples/s  "
            f"waiting for data {100 * speed.waiting:.0f} %{memory}{used}  {left} left"
        )


@dataclass(frozen=True, slots=True)
class _Lap:
    end: float
    cpu: float
    waited: float
    operations: float


class ThroughputMeter:
    """Takes the time of each step; *batch* is the global size of a batch."""

    def __init__(self, model: CLIPModel, batch: int, ranks: Ranks) -> None:
        self._sizes = model.config
        self._batch = batch
        self._ranks = ranks
        self._process = psutil.Process()
        self._peak = peak(ranks.device)
        self._laps: deque[_Lap] = deque([_Lap(time.monotonic(), time.process_time(), 0.0, 0.0)], maxlen=_STEPS + 1)

    def add(self, waited: float, tokens: int) -> None:
        """Count a step that ends now, *waited* seconds of it for a batch with texts of *tokens*."""
        operations = self._batch * training_operations(self._sizes, tokens)
        self._laps.append(_Lap(time.monotonic(), time.process_time(), waited, operations))

    def speed(self, step: int) -> Speed:
        """Return the speed of the last steps, of which *step* is the last."""
        first, *laps = self._laps
        seconds = max(laps[-1].end - first.end, 1e-9)
        device = self._ranks.device
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        possible = None if self._peak is None else seconds * self._peak * self._ranks.world
        return Speed(
            step=step,
            time=time.time(),
            samples_per_second=len(laps) * self._batch / seconds,
            memory=self._process.memory_info().rss,
            cpu=100 * (laps[-1].cpu - first.cpu) / seconds,
            waiting=min(1.0, sum(lap.waited for lap in laps) / seconds),
            gpu_memory=memory,
            mfu=None if possible is None else sum(lap.operations for lap in laps) / possible,
        )


def training_operations(sizes: CLIPConfig, tokens: int) -> float:
    """Return the floating point operations that one sample takes in training, its text of *tokens*.

    Those of the matrix products of both towers, three times: forward, and backward for inputs and for weights. What is
    computed again to save memory does not count.
    """
    vision, text = sizes.vision_config, sizes.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    pixels = 3 * vision.patch_size**2
    forward = 2 * patches * pixels * vision.hidden_size
    forward += _tower(vision, patches + 1) + _tower(text, tokens)
    forward += 2 * sizes.projection_dim * (vision.hidden_size + text.hidden_size)
    return 3.0 * int(forward)


def _tower(sizes: CLIPTextConfig | CLIPVisionConfig, tokens: int) -> int:
    width, inner, layers = sizes.hidden_size, sizes.intermediate_size, sizes.num_hidden_layers
    weights = 4 * width * width + 2 * width * inner
    attention = 2 * tokens * width  # queries by keys, weights by values
    return int(layers * tokens * 2 * (weights + attention))


def peak(device: torch.device) -> float | None:
    """Return the bfloat16 operations a second that *device* can do at most; None where that is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((operations for part, operations in _PEAKS if part in name), None)
