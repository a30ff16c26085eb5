"""AdamW as CLIP is trained with it, and its rate: warm-up, then a cosine to nothing."""

from __future__ import annotations

import math

import torch
from torch import nn

from vecap_tasks.config import TrainConfig

_EPSILON = 1e-6  # as open_clip has for its ViT models


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
