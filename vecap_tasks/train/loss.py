"""Contrastive and sigmoid losses over the global batch of all ranks.

Each rank computes the similarities of its own samples with the global batch, so no rank holds the full matrix. The mean
over the ranks of losses and gradients is the loss and gradient of the global batch.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from vecap_tasks.train.distributed import ProcessGroup

_MAX_LOG_SCALE = math.log(100)  # CLIP's bound (Radford et al., 2021)
_SIGMOID_LOG_SCALE, _SIGMOID_BIAS = math.log(10), -10.0  # SigLIP's initial values (Zhai et al., 2023)


class Objective(nn.Module):
    """The loss and its parameters: the log of the logit scale, and a bias for the sigmoid loss."""

    def __init__(
        self, kind: Literal["contrastive", "sigmoid"], log_scale: nn.Parameter, process_group: ProcessGroup
    ) -> None:
        super().__init__()
        self.log_scale = log_scale
        self.bias = nn.Parameter(torch.tensor(_SIGMOID_BIAS, device=log_scale.device)) if kind == "sigmoid" else None
        self._process_group = process_group

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return this rank's loss (scalar) of features [n, d] and [n, captions, d], the mean over the captions.

        Row i of *images* matches row i of *texts*.
        """
        losses = [self._loss(images, captions) for captions in texts.unbind(dim=1)]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def _loss(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        if self.bias is None:
            return contrastive_loss(images, texts, self.log_scale, self._process_group)
        return sigmoid_loss(images, texts, self.log_scale, self.bias, self._process_group)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the sigmoid loss's initial logit scale; CLIPModel already has the contrastive one."""
        if self.bias is not None:
            self.log_scale.fill_(_SIGMOID_LOG_SCALE)

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Average the gradients of the loss's parameters over all ranks."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                self._process_group.all_reduce_mean(parameter.grad)

    @torch.no_grad()
    def clamp(self) -> None:
        self.log_scale.clamp_(0, _MAX_LOG_SCALE)


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, log_scale: torch.Tensor, process_group: ProcessGroup | None = None
) -> torch.Tensor:
    """Return the symmetric InfoNCE loss of features [n, d] with matching rows (Radford et al., 2021)."""
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    scale = log_scale.exp()
    first = 0
    if process_group is None or process_group.world_size == 1:
        logits_per_image = scale * images @ texts.T
        logits_per_text = logits_per_image.T
    else:
        gathered = process_group.all_gather(torch.cat([images, texts], dim=1))
        all_images, all_texts = gathered.split(images.shape[1], dim=1)
        logits_per_image = scale * images @ all_texts.T
        logits_per_text = scale * texts @ all_images.T
        first = process_group.rank * len(images)
    targets = torch.arange(first, first + len(images), device=images.device)
    return (F.cross_entropy(logits_per_image, targets) + F.cross_entropy(logits_per_text, targets)) / 2


def sigmoid_loss(
    images: torch.Tensor,
    texts: torch.Tensor,
    log_scale: torch.Tensor,
    bias: torch.Tensor,
    process_group: ProcessGroup | None = None,
) -> torch.Tensor:
    """Return SigLIP's loss of features [n, d] with matching rows (Zhai et al., 2023).

    It is the sum over all pairs divided by the number of images.
    """
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    first = 0
    if process_group is not None and process_group.world_size > 1:
        texts = process_group.all_gather(texts)
        first = process_group.rank * len(images)
    logits = log_scale.exp() * images @ texts.T + bias
    signs = torch.full_like(logits, -1.0)
    signs.diagonal(first).fill_(1.0)
    return -F.logsigmoid(signs * logits).sum() / len(images)
