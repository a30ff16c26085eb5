"""Mixed precision: autocast, and norms and embeddings that return half precision under autocast.

Autocast computes norms in float32 and returns float32. CLIP's residual stream is then float32 too: it takes twice the
memory and is cast before each matrix product. The norms here take and return half precision and accumulate in float32,
as all LayerNorm kernels do. open_clip's models also keep a half-precision residual stream.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


class HalfNorm(nn.LayerNorm):
    """LayerNorm that returns autocast's dtype under autocast."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        device_type = input.device.type
        if not torch.is_autocast_enabled(device_type):
            return super().forward(input)
        dtype = torch.get_autocast_dtype(device_type)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        with torch.autocast(device_type, enabled=False):
            return F.layer_norm(input.to(dtype), self.normalized_shape, weight, bias, self.eps)


class HalfEmbedding(nn.Embedding):
    """Embedding with float32 weights that returns autocast's dtype under autocast."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows, device_type = super().forward(input), input.device.type
        return rows.to(torch.get_autocast_dtype(device_type)) if torch.is_autocast_enabled(device_type) else rows


def configure_precision(model: nn.Module, precision: str, device: torch.device) -> Callable[[], torch.autocast]:
    """Prepare *model* for *precision* (float32 or bfloat16). Return a factory of contexts for its forward passes."""
    enabled = precision == "bfloat16"
    if enabled:
        keep_half_precision(model)
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=enabled)


def keep_half_precision(model: nn.Module) -> None:
    """Make the norms and embeddings of *model* return half precision. Weights and gradients stay float32."""
    for module in model.modules():
        if type(module) is nn.LayerNorm:
            module.__class__ = HalfNorm
        elif type(module) is nn.Embedding:
            module.__class__ = HalfEmbedding
