"""What is learned: which image and which text of a batch belong together, over the samples of all ranks.

Each rank computes the rows of its own samples against all of the batch, so that no rank holds the whole matrix; the
mean over the ranks of what they return is the loss of the batch, and so are the means of their gradients.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from vecap_tasks.train.distributed import Ranks

_LARGEST_LOG_SCALE = math.log(100)  # the bound of CLIP's logit scale (Radford et al., 2021)
_SIGMOID_LOG_SCALE, _SIGMOID_BIAS = math.log(10), -10.0  # where SigLIP starts (Zhai et al., 2023)


class Objective(nn.Module):
    """The loss with what it learns itself: the logarithm of the logit scale, and a bias for the sigmoid loss."""

    def __init__(self, kind: Literal["contrastive", "sigmoid"], log_scale: nn.Parameter, ranks: Ranks) -> None:
        super().__init__()
        self.log_scale = log_scale
        self.bias = nn.Parameter(torch.tensor(_SIGMOID_BIAS, device=log_scale.device)) if kind == "sigmoid" else None
        self._ranks = ranks

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of the loss of features [n, d] of which the rows belong together."""
        if self.bias is None:
            return contrastive_loss(images, texts, self.log_scale, self._ranks)
        return sigmoid_loss(images, texts, self.log_scale, self.bias, self._ranks)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the scale of an untrained model to where its loss starts; CLIP's model has its own by itself."""
        if self.bias is not None:
            self.log_scale.fill_(_SIGMOID_LOG_SCALE)

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Give all ranks the mean of their gradients."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                self._ranks.mean(parameter.grad)

    @torch.no_grad()
    def clamp(self) -> None:
        self.log_scale.clamp_(0, _LARGEST_LOG_SCALE)


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, log_scale: torch.Tensor, ranks: Ranks | None = None
) -> torch.Tensor:
    """Return the symmetric InfoNCE loss of features [n, d] whose rows belong together (Radford et al., 2021)."""
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    scale = log_scale.exp()
    first = 0
    if ranks is None or ranks.world == 1:
        by_image = scale * images @ texts.T
        by_text = by_image.T
    else:
        everyone = ranks.gather(torch.cat([images, texts], dim=1))
        all_images, all_texts = everyone.split(images.shape[1], dim=1)
        by_image = scale * images @ all_texts.T
        by_text = scale * texts @ all_images.T
        first = ranks.rank * len(images)
    targets = torch.arange(first, first + len(images), device=images.device)
    return (F.cross_entropy(by_image, targets) + F.cross_entropy(by_text, targets)) / 2


def sigmoid_loss(
    images: torch.Tensor,
    texts: torch.Tensor,
    log_scale: torch.Tensor,
    bias: torch.Tensor,
    ranks: Ranks | None = None,
) -> torch.Tensor:
    """Return SigLIP's loss of features [n, d] whose rows belong together: every pair a yes or no (Zhai et al., 2023).

    The sum over all pairs, divided by the number of images.
    """
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    first = 0
    if ranks is not None and ranks.world > 1:
        texts = ranks.gather(texts)
        first = ranks.rank * len(images)
    logits = log_scale.exp() * images @ texts.T + bias
    signs = torch.full_like(logits, -1.0)
    signs.diagonal(first).fill_(1.0)
    return -F.logsigmoid(signs * logits).sum() / len(images)
