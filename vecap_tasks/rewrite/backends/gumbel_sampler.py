"""Sampling by the Gumbel-max trick with a seed of its own for each row, so that a text does not depend on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from vecap_tasks.rewrite.backends.sampling_params import Sampling

# SplitMix64 (Steele, Lea, Flood, 2014), as signed numbers: torch multiplies modulo 2**64.
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_BITS = 23  # and a half: what a float32 holds without rounding up to 1


class GumbelSampler(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Turns the next tokens' scores, float [rows, vocabulary], into scores whose largest is a draw of each row."""

    def __init__(self, draws: Sequence[Sampling], device: torch.device) -> None:
        self._temperature = torch.tensor([[draw.temperature or 1.0] for draw in draws], device=device)
        self._sampled = torch.tensor([[draw.temperature > 0] for draw in draws], device=device)
        self._seed = torch.tensor([[draw.seed] for draw in draws], dtype=torch.int64, device=device)
        self._step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        token = torch.arange(scores.shape[1], device=scores.device)
        bits = _mixed(_mixed(self._seed + self._step) + token * _STEP)
        self._step += 1
        uniform = ((bits & ((1 << _BITS) - 1)).to(torch.float32) + 0.5) / (1 << _BITS)
        drawn = scores.to(torch.float32) / self._temperature - torch.log(-torch.log(uniform))
        return torch.where(self._sampled, drawn, scores.to(torch.float32))  # type: ignore[return-value]


def _mixed(number: torch.Tensor) -> torch.Tensor:
    number = number + _STEP
    number = (number ^ _right(number, 30)) * _MIX[0]
    number = (number ^ _right(number, 27)) * _MIX[1]
    return number ^ _right(number, 31)


def _right(number: torch.Tensor, places: int) -> torch.Tensor:
    """Shift without the sign."""
    return (number >> places) & ((1 << (64 - places)) - 1)
