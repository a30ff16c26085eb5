"""How many samples of each source an epoch has, and which: by weight, seed and epoch alone.

A source of n samples with the weight w gives q = w × n samples an epoch, rounded half up. It is passed over again and
again, each pass in an order of its own, and epoch e takes the places e × q up to (e + 1) × q of that endless row. So a
weight of 1 is every sample once an epoch, 2 is twice, and of 0.5 two epochs have every sample once: over any number of
epochs no sample of a source is seen more than once oftener than another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Part:
    """The places `start` up to `stop` of one pass (from 0) over a source."""

    turn: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Order:
    """The samples of an epoch in their order: their numbers, and the pass over their source that each is of."""

    numbers: NDArray[np.int64]
    turns: NDArray[np.int64]


def quota(samples: int, weight: float) -> int:
    """Return how many samples an epoch has of a source of *samples*: the decimal product, rounded half up."""
    return math.floor(Fraction(str(weight)) * samples + Fraction(1, 2))


def parts(samples: int, wanted: int, epoch: int) -> Iterator[Part]:
    """Give the parts of passes over *samples* that make the *wanted* ones of *epoch*."""
    first, left = epoch * wanted, wanted
    while left:
        turn, start = divmod(first, samples)
        stop = min(samples, start + left)
        yield Part(turn, start, stop)
        first, left = first + stop - start, left - (stop - start)


def epoch_order(samples: Sequence[int], wanted: Sequence[int], seed: int, epoch: int) -> Order:
    """Return the order of an epoch over sources of *samples*, numbered through, of which *wanted* are taken."""
    numbers, turns = [], []
    first = 0
    for source, (count, quota) in enumerate(zip(samples, wanted, strict=True)):
        for part in parts(count, quota, epoch):
            taken = np.arange(count)
            if part.stop - part.start < count:
                taken = np.random.default_rng([seed, part.turn, source, 1]).permutation(count)[part.start : part.stop]
            numbers.append(taken + first)
            turns.append(np.full(len(taken), part.turn))
        first += count
    order = np.random.default_rng([seed, epoch]).permutation(sum(wanted))
    return Order(np.concatenate(numbers)[order], np.concatenate(turns)[order])
