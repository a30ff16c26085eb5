"""Optimizer of the VLM: Muon for the matrices of the layers, AdamW for all other weights.

Muon (Keller Jordan et al., 2024, github.com/KellerJordan/Muon; `torch.optim.Muon`) equalizes the singular values of
each update. Here it needs a fraction of AdamW's steps, which matters on a CPU.
"""

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn

_WARM_UP: Final = 150
# The rate stays at its peak, then decays linearly over this last share of the steps.
_DECAY_SHARE: Final = 0.4
_FINAL_SHARE: Final = 0.02
_CLIP: Final = 1.0


class Optimizer:
    """Both optimizers with one schedule: warm-up, plateau, linear decay."""

    def __init__(self, modules: Iterable[nn.Module], rate: float, steps: int) -> None:
        named = [
            (name, weight) for module in modules for name, weight in module.named_parameters() if weight.requires_grad
        ]
        matrices = [weight for name, weight in named if weight.ndim == 2 and "layers." in name]
        others = [weight for name, weight in named if weight.ndim != 2 or "layers." not in name]
        self._all = [weight for _, weight in named]
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw", ns_steps=4),
            torch.optim.AdamW(others, lr=rate, weight_decay=0.01, betas=(0.9, 0.98)),
        )
        self._rate, self._steps, self._done = rate, steps, 0

    def step(self, loss: Tensor) -> None:
        """Backpropagate, clip the gradient norm to 1, and update the weights."""
        self._done += 1
        decay = (self._steps - self._done) / (_DECAY_SHARE * self._steps)
        rate = self._rate * min(1.0, self._done / min(_WARM_UP, self._steps), decay + _FINAL_SHARE)
        for optimizer in self._optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._all, _CLIP)
        for optimizer in self._optimizers:
            optimizer.step()
