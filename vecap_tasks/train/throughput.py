"""The throughput of a run: samples per second, remaining time, memory and model FLOPs utilization (MFU)."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import psutil
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from vecap_tasks.train.checkpoint import Speed, StepRecord
from vecap_tasks.train.distributed import ProcessGroup
from vecap_tasks.train.towers import ClipModel

_WINDOW_STEPS = 50  # steps that rates are averaged over
# Dense bfloat16 FLOP/s from NVIDIA's data sheets, by part of the device name.
_PEAK_FLOPS = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
)


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run. `seconds_left` is estimated from the speed of the last steps."""

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
        mfu = "" if speed.mfu is None else f"  MFU {100 * speed.mfu:.0f} %"
        return (
            f"{self.run}  step {self.record.step}/{self.steps}  epoch {self.record.epoch}  "
            f"loss {self.record.loss:.4f}  lr {self.record.learning_rate:.2e}  "
            f"logit scale {self.record.logit_scale:.1f}  grad norm {self.record.gradient_norm:.2f}  "
            f"{speed.samples_per_second:.0f} samples/s  data wait {100 * speed.waiting:.0f} %{memory}{mfu}  {left} left"
        )


@dataclass(frozen=True, slots=True)
class _StepTiming:
    end: float
    cpu: float
    waited: float
    flops: float


class ThroughputMeter:
    """Measures the time of each step. *batch_size* is global.

    The MFU is known for a `CLIPModel` without locked towers.
    """

    def __init__(self, model: ClipModel, batch_size: int, process_group: ProcessGroup) -> None:
        counted = isinstance(model, CLIPModel) and all(parameter.requires_grad for parameter in model.parameters())
        self._model_config = model.config if counted else None
        self._batch_size = batch_size
        self._process_group = process_group
        self._process = psutil.Process()
        self._peak_flops = peak_flops(process_group.device)
        start = _StepTiming(time.monotonic(), time.process_time(), 0.0, 0.0)
        self._timings: deque[_StepTiming] = deque([start], maxlen=_WINDOW_STEPS + 1)

    def add(self, waited: float, captions: int, tokens: int) -> None:
        """Record a step that ends now and waited *waited* seconds for its batch.

        Each image had *captions* texts of *tokens* tokens.
        """
        sizes = self._model_config
        flops = 0.0 if sizes is None else self._batch_size * training_flops(sizes, tokens, captions)
        self._timings.append(_StepTiming(time.monotonic(), time.process_time(), waited, flops))

    def speed(self, step: int) -> Speed:
        """Return the speed of the last steps, up to *step*, which must be the last one added."""
        first, *timings = self._timings
        seconds = max(timings[-1].end - first.end, 1e-9)
        device = self._process_group.device
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        known = self._peak_flops is not None and self._model_config is not None
        max_flops = seconds * (self._peak_flops or 0.0) * self._process_group.world_size if known else None
        return Speed(
            step=step,
            time=time.time() - (time.monotonic() - timings[-1].end),
            samples_per_second=len(timings) * self._batch_size / seconds,
            memory=self._process.memory_info().rss,
            cpu=100 * (timings[-1].cpu - first.cpu) / seconds,
            waiting=min(1.0, sum(timing.waited for timing in timings) / seconds),
            gpu_memory=memory,
            mfu=None if max_flops is None else sum(timing.flops for timing in timings) / max_flops,
        )


def training_flops(sizes: CLIPConfig, tokens: int, captions: int = 1) -> float:
    """Return the floating-point operations of training on one sample with *captions* texts of *tokens* tokens.

    Counts the matrix products of both towers three times: forward, and backward for inputs and weights. Activations
    recomputed to save memory do not count.
    """
    vision, text = sizes.vision_config, sizes.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    pixels = 3 * vision.patch_size**2
    forward = 2 * patches * pixels * vision.hidden_size
    forward += _tower(vision, patches + 1) + captions * _tower(text, tokens)
    forward += 2 * sizes.projection_dim * (vision.hidden_size + captions * text.hidden_size)
    return 3.0 * int(forward)


def _tower(sizes: CLIPTextConfig | CLIPVisionConfig, tokens: int) -> int:
    width, inner, layers = sizes.hidden_size, sizes.intermediate_size, sizes.num_hidden_layers
    weights = 4 * width * width + 2 * width * inner
    attention = 2 * tokens * width  # queries x keys, weights x values
    return int(layers * tokens * 2 * (weights + attention))


def peak_flops(device: torch.device) -> float | None:
    """Return the peak bfloat16 FLOP/s of *device*, or None if unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for model, flops in _PEAK_FLOPS if model in name), None)
