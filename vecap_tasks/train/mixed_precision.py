"""Mixed precision: autocast, and layers that stay in half precision where it is on.

Norms and embeddings return what the next matrix product takes.

Autocast computes norms in float32 and leaves their results so. CLIP's residual stream is then float32, too, twice the
bytes, and is cast again before each product. Here a norm takes and gives half precision, and adds up in float32 within,
as every kernel of it does. open_clip's models do the same of their residual stream.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


class HalfNorm(nn.LayerNorm):
    """A norm over the last dimension, in autocast's dtype where that is on."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        kind = input.device.type
        if not torch.is_autocast_enabled(kind):
            return super().forward(input)
        half = torch.get_autocast_dtype(kind)
        weight, bias = self.weight.to(half), self.bias.to(half)
        with torch.autocast(kind, enabled=False):
            return F.layer_norm(input.to(half), self.normalized_shape, weight, bias, self.eps)


class HalfEmbedding(nn.Embedding):
    """Rows of a float32 table, given in autocast's dtype where that is on."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows, kind = super().forward(input), input.device.type
        return rows.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else rows


def configure_precision(model: nn.Module, precision: str, device: torch.device) -> Callable[[], torch.autocast]:
    """Prepare *model* for *precision* (float32 or bfloat16); return what makes the context of its forward passes."""
    half = precision == "bfloat16"
    if half:
        keep_half_precision(model)
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=half)


def keep_half_precision(model: nn.Module) -> None:
    """Make the norms and embeddings of *model* return half precision. Weights and gradients stay float32."""
    for part in model.modules():
        if type(part) is nn.LayerNorm:
            part.__class__ = HalfNorm
        elif type(part) is nn.Embedding:
            part.__class__ = HalfEmbedding
