"""Models on CPUs: matrix products by oneDNN, and memory that is kept for the next batch.

torch gives float32 products to MKL, which leaves the wide registers of AMD's cores unused; oneDNN, which torch brings
along for half precision and convolutions, uses those of every maker. Both add up in float32: a product differs in the
last bits at most, and a row's less with the number of rows beside it than by MKL.
"""

from __future__ import annotations

import ctypes
import platform

import torch
from torch import nn

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's malloc.h
_MAPPED_FROM = 32 << 20  # bytes; glibc takes no more
_KEPT = 1 << 30  # bytes


class OneDnnLinear(nn.Linear):
    """A linear layer that is computed by oneDNN where it can be, for inference alone: no gradient comes back."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return float [..., out] of float [..., in]."""
        if input.dtype != torch.float32 or input.device.type != "cpu":
            return super().forward(input)
        made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return made


def make_ready(model: nn.Module) -> None:
    """Let *model*, if it is float32 and on a CPU, multiply by oneDNN, and its process keep the memory that it frees."""
    weight = next(model.parameters(), None)
    if weight is None or weight.device.type != "cpu":
        return
    keep_freed_memory()
    if not (platform.machine() in ("x86_64", "AMD64") and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return
    for part in model.modules():
        if type(part) is nn.Linear and part.weight.dtype == torch.float32:
            part.__class__ = OneDnnLinear


def keep_freed_memory() -> None:
    """Have malloc use freed blocks of up to 32 MiB again, instead of giving them back to the system each time.

    A batch's tensors are made and freed dozens of times a second, and the system fills with noughts whatever it gives
    anew. `dask worker` has malloc give back everything by MALLOC_TRIM_THRESHOLD_; this stands above that variable.
    Nothing happens where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, _MAPPED_FROM)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT)
