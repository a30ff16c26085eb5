"""Epochs: how many samples of each source, in which order, and how many steps a run has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from vecap_tasks.config import TrainConfig
from vecap_tasks.errors import PermanentError
from vecap_tasks.train.data.samples import Source


@dataclass(frozen=True, slots=True)
class Part:
    """The places `start` up to `stop` of one pass (from 0) over a source."""

    pass_number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Order:
    """The samples of an epoch in their order: their numbers, and the pass over their source that each is of."""

    numbers: NDArray[np.int64]
    passes: NDArray[np.int64]


def quota(samples: int, weight: float) -> int:
    """Return how many samples an epoch has of a source of *samples*: the decimal product, rounded half up."""
    return math.floor(Fraction(str(weight)) * samples + Fraction(1, 2))


def parts(samples: int, wanted: int, epoch: int) -> Iterator[Part]:
    """Give the parts of passes over *samples* that make the *wanted* ones of *epoch*."""
    first, left = epoch * wanted, wanted
    while left:
        pass_number, start = divmod(first, samples)
        stop = min(samples, start + left)
        yield Part(pass_number, start, stop)
        first, left = first + stop - start, left - (stop - start)


def epoch_order(samples: Sequence[int], wanted: Sequence[int], seed: int, epoch: int) -> Order:
    """Return the order of an epoch over sources of *samples*, numbered through, of which *wanted* are taken."""
    numbers, passes = [], []
    first = 0
    for source, (count, quota) in enumerate(zip(samples, wanted, strict=True)):
        for part in parts(count, quota, epoch):
            taken = np.arange(count)
            if part.stop - part.start < count:
                taken = np.random.default_rng([seed, part.pass_number, source, 1]).permutation(count)[
                    part.start : part.stop
                ]
            numbers.append(taken + first)
            passes.append(np.full(len(taken), part.pass_number))
        first += count
    order = np.random.default_rng([seed, epoch]).permutation(sum(wanted))
    return Order(np.concatenate(numbers)[order], np.concatenate(passes)[order])


@dataclass(frozen=True, slots=True)
class Plan:
    """Figures of a run. By source: `usable` samples with a text for the arm, of which an epoch has `wanted`."""

    usable: tuple[int, ...]
    wanted: tuple[int, ...]
    samples: int  # of an epoch, those that have a text
    left_out: int  # of an epoch, those that have none
    batch_size: int
    per_epoch: int
    steps: int


def plan_run(run: str, sources: Sequence[Source], usable: Sequence[int], config: TrainConfig) -> Plan:
    """Return the plan of *run* over *sources* with so many *usable* samples.

    `epochs` counts all samples, with a text for the arm or not, so that every arm takes as many steps. Raises
    VecapError where a source, or all of them, have too few.
    """
    for source, count in zip(sources, usable, strict=True):
        if count == 0 and len(sources) > 1:
            raise PermanentError(
                f"train {run}: none of the {source.samples} samples of {source.name} has a text for the arm "
                f"{source.arm}; give it an `arm` of its own in train.mixture, or say in `texts` where its text stands"
            )
    wanted = tuple(quota(count, source.weight) for source, count in zip(sources, usable, strict=True))
    everything = sum(quota(source.samples, source.weight) for source in sources)
    samples = sum(wanted)
    if samples < 2:
        raise PermanentError(
            f"train {run}: {samples} of {everything} samples have a text for the arm {run.partition('-')[0]}; "
            "contrastive training needs at least 2"
        )
    size = min(config.batch_size, samples)
    steps = max(1, config.epochs * everything // size)
    return Plan(tuple(usable), wanted, samples, everything - samples, size, samples // size, steps)
