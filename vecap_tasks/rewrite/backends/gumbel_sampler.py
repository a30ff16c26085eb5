"""Gumbel-max sampling with one seed per row, so that a text does not depend on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from vecap_tasks.rewrite.backends.sampling_params import Sampling

# SplitMix64 (Steele, Lea, Flood, 2014) with signed constants: torch multiplies modulo 2**64.
_INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_BITS = 23  # plus 0.5: fits a float32 without rounding up to 1


class GumbelSampler(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Perturbs next-token scores, float [rows, vocabulary], so that the argmax of each row is a sample."""

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        self._temperature = torch.tensor([[sampling.temperature or 1.0] for sampling in samplings], device=device)
        self._sampled = torch.tensor([[sampling.temperature > 0] for sampling in samplings], device=device)
        self._seed = torch.tensor([[sampling.seed] for sampling in samplings], dtype=torch.int64, device=device)
        self._step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        token = torch.arange(scores.shape[1], device=scores.device)
        bits = _splitmix64(_splitmix64(self._seed + self._step) + token * _INCREMENT)
        self._step += 1
        uniform = ((bits & ((1 << _BITS) - 1)).to(torch.float32) + 0.5) / (1 << _BITS)
        perturbed = scores.to(torch.float32) / self._temperature - torch.log(-torch.log(uniform))
        return torch.where(self._sampled, perturbed, scores.to(torch.float32))  # type: ignore[return-value]


def _splitmix64(number: torch.Tensor) -> torch.Tensor:
    number = number + _INCREMENT
    number = (number ^ _logical_shift_right(number, 30)) * _MULTIPLIERS[0]
    number = (number ^ _logical_shift_right(number, 27)) * _MULTIPLIERS[1]
    return number ^ _logical_shift_right(number, 31)


def _logical_shift_right(number: torch.Tensor, count: int) -> torch.Tensor:
    """Shift right by *count* bits without sign extension."""
    return (number >> count) & ((1 << (64 - count)) - 1)
