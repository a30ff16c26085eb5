"""Intervals by the percentile bootstrap (Efron, 1979), and arms compared on the same draws.

Images are drawn, each with all of its queries: the captions of one image are not independent. All models are looked at
through the same draws, so a difference between two has the interval of what differs, not of how hard the images are.
Where an arm has several seeds of training these are drawn too, the same for all arms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from vecap_tasks.config import BootstrapConfig
from vecap_tasks.evaluate.metrics import Answers, metrics_of

_CELLS = 4_000_000  # of draws held at once
Rounds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends, of the same unit as the figure."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """How much one is above another: the observed difference, its interval, and a two-sided p of no difference."""

    difference: float
    low: float
    high: float
    p: float


def resample(runs: Sequence[Sequence[Answers]], settings: BootstrapConfig) -> dict[str, Rounds]:
    """Return each metric, by key, of every model in every round: float64 [rounds, runs].

    *runs* has the answers of each model, all to the same queries. Raises ValueError where they differ.
    """
    made: dict[str, Rounds] = {}
    for of_task in zip(*runs, strict=True):
        first = of_task[0]
        for one in of_task:
            same = (one.digest, one.task) == (first.digest, first.task) and np.array_equal(one.image, first.image)
            if not same or not np.array_equal(one.label, first.label):
                raise ValueError(f"the models answered other queries of {first.task} {first.set}")
        images = int(first.image.max()) + 1
        rounds: list[NDArray[np.float64]] = []
        for weights in _draws(images, settings, first.set):
            rounds.append(np.stack([*_means(weights, of_task)], axis=-1))
        values = np.concatenate(rounds)  # [rounds, runs, metrics]
        for metric in metrics_of([(first.set, first.task)]):
            made[metric.key] = values[:, :, metric.column]
    return made


def _draws(images: int, settings: BootstrapConfig, name: str) -> Iterator[NDArray[np.float64]]:
    """Give how often each image is drawn, [rounds, images], some rounds at a time: the same for all tasks of a set."""
    rng = np.random.default_rng([settings.seed, crc32(name.encode())])
    at_once = max(1, _CELLS // images)
    for start in range(0, settings.rounds, at_once):
        count = min(at_once, settings.rounds - start)
        yield np.stack([np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(count)]).astype(
            np.float64
        )


def _means(weights: NDArray[np.float64], runs: Sequence[Answers]) -> Iterator[NDArray[np.float64]]:
    """Give, for each of the task's three metrics, [rounds, runs]: the weighted share of queries that were answered."""
    first = runs[0]
    images = weights.shape[1]
    asked = weights @ np.bincount(first.image, minlength=images)
    for column in range(3):
        hits = np.stack([one.hits[:, column] for one in runs], axis=1)
        if first.task == "zero_shot" and column == 2:
            yield _per_class(weights, first.label, hits)
            continue
        sums = np.stack(
            [np.bincount(first.image, weights=hits[:, run], minlength=images) for run in range(len(runs))], axis=1
        )
        yield (weights @ sums) / asked[:, None]


def _per_class(weights: NDArray[np.float64], labels: NDArray[np.int32], hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean over the classes drawn of the share in each: an image is one query here."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    drawn = weights[:, order]
    of_class = np.add.reduceat(drawn, starts, axis=1)
    there = of_class > 0
    made = []
    for run in range(hits.shape[1]):
        right = np.add.reduceat(drawn * hits[order, run], starts, axis=1)
        share = np.divide(right, of_class, out=np.zeros_like(right), where=there)
        made.append(share.sum(axis=1) / there.sum(axis=1))
    return np.stack(made, axis=1)


def arm_rounds(values: Rounds, runs: Sequence[Sequence[int]], settings: BootstrapConfig) -> Rounds:
    """Return a metric of the arms, [rounds, arms], from that of the models: the mean over drawn seeds.

    *runs* has the columns of each arm's models, seed by seed.
    """
    rng = np.random.default_rng([settings.seed, 1])
    drawn = rng.random((len(values), max(map(len, runs), default=1)))
    made = []
    for columns in runs:
        count = len(columns)
        chosen = np.asarray(columns)[(drawn[:, :count] * count).astype(np.int64)]
        made.append(np.take_along_axis(values, chosen, axis=1).mean(axis=1))
    return np.stack(made, axis=1)


def interval(values: Rounds, confidence: float) -> Interval:
    """Return what the middle *confidence* of the rounds *values* [rounds] lies between."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def difference(observed: float, values: Rounds, confidence: float) -> Difference:
    """Return the *observed* difference with its interval over the rounds *values*, and p, at least 2 / (rounds + 1)."""
    ends = interval(values, confidence)
    tail = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return Difference(observed, ends.low, ends.high, min(1.0, 2 * (tail + 1) / (len(values) + 1)))
