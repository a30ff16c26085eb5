"""Estimates whether a training fits into memory, so that it is rejected before any stage starts."""

from __future__ import annotations

import math

from vecap_tasks.config import ClipConfig, TrainConfig
from vecap_tasks.errors import ConfigError

# Bytes per parameter: float32 weight, gradient and the two moments of AdamW.
_STATE_BYTES = 16
# Bytes that autograd keeps per token, unit of width and layer, without the attention matrix. Measured for float32 with
# `saved_tensors_hooks` on towers of 96 to 512 units: 66 to 71. In bfloat16, half of it is the lower bound. With
# checkpointing only the input of each layer is kept.
_ACTIVATION_BYTES = {"float32": 64, "bfloat16": 32}
_CHECKPOINT_BYTES = 4
_COMPILED_SHARE = 4  # torch.compile recomputes what is cheap; a quarter is left at the least
_LAYER_WEIGHTS = 12  # times width²: attention has 4, the MLP 8


def check_memory(config: TrainConfig) -> None:
    """Raise ConfigError if one training step needs more memory than the device of *config* has in total.

    The estimate is a lower bound: weights, optimizer and activations, without images, logits and the framework.
    """
    available, what = _capacity(config)
    needed, samples = estimate(config)
    if needed > available:
        raise ConfigError(
            f"train: a step needs at least {_gib(needed)}, and {what} has {_gib(available)}: {samples:,} samples at "
            "once do not fit; lower train.micro_batch or train.batch_size, choose a smaller train.model, or set "
            "train.activation_checkpointing to true"
        )


def estimate(config: TrainConfig) -> tuple[int, int]:
    """Return the bytes of one step on one device (of all processes of a machine on the CPU), and samples at once."""
    launch = config.launch
    samples = min(config.micro_batch or config.batch_size, config.batch_size // (launch.processes * launch.nodes))
    units = _activation_units(config.model, config.captions_per_image)
    per_unit = _CHECKPOINT_BYTES if config.activation_checkpointing else _ACTIVATION_BYTES[config.precision]
    if config.compile:
        per_unit //= _COMPILED_SHARE
    process = _STATE_BYTES * _parameters(config.model) + samples * units * per_unit
    return process * (launch.processes if config.device == "cpu" else 1), samples


def _activation_units(model: ClipConfig, captions: int) -> int:
    """Return tokens x width x layers of both towers for one sample. The sizes of pretrained towers are not known."""
    patches = (model.image_size // model.patch_size) ** 2 + 1
    vision = 0 if model.vision_init_from else patches * model.vision_width * model.vision_layers
    text = 0 if model.text_init_from else model.context * model.text_width * model.text_layers
    return vision * (not model.vision_locked) + captions * text * (not model.text_locked)


def _parameters(model: ClipConfig) -> int:
    """Return the number of weights in the layers of both towers; embeddings are left out."""
    vision = 0 if model.vision_init_from else model.vision_width**2 * model.vision_layers
    text = 0 if model.text_init_from else model.text_width**2 * model.text_layers
    return _LAYER_WEIGHTS * (vision + text)


def _capacity(config: TrainConfig) -> tuple[float, str]:
    """Return the memory of the configured device in bytes, and its name. Infinite if this machine has no such device:
    another machine may train.
    """
    if config.device == "cpu":
        from distributed.system import MEMORY_LIMIT  # of the machine or its container

        return MEMORY_LIMIT, "this machine"
    import torch

    if not torch.cuda.is_available():
        return math.inf, config.device
    return torch.cuda.get_device_properties(torch.device(config.device)).total_memory, config.device


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.1f} GiB"
