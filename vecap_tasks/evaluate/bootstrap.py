"""Percentile bootstrap intervals (Efron, 1979), and paired comparisons of arms.

Images are resampled with all of their queries, because the captions of one image are not independent. All models share
the same resamples (a paired bootstrap), so image difficulty cancels out of differences. Training seeds of an arm are
resampled too, in the same way for all arms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from vecap_tasks.config import BootstrapConfig
from vecap_tasks.evaluate.metrics import Answers, figures_of, is_grouped, metrics_of

_MAX_WEIGHTS = 4_000_000  # resampling weights in memory at a time
Rounds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """The bounds, in the unit of the metric."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """An observed difference, its interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def resample(runs: Sequence[Sequence[Answers]], settings: BootstrapConfig) -> dict[str, Rounds]:
    """Return each metric, by key, of all models in all rounds: float64 [rounds, runs].

    *runs* has the answers of each model to the same queries. Raises ValueError if the queries differ.
    """
    metrics: dict[str, Rounds] = {}
    for answers in zip(*runs, strict=True):
        first = answers[0]
        for other in answers:
            same = (other.digest, other.task) == (first.digest, first.task) and np.array_equal(other.image, first.image)
            if not same or not np.array_equal(other.label, first.label):
                raise ValueError(f"the models have different queries of {first.task} {first.set}")
        images = int(first.image.max()) + 1
        rounds: list[NDArray[np.float64]] = []
        for weights in _weights(images, settings, first.set):
            rounds.append(np.stack([*_means(weights, answers)], axis=-1))
        values = np.concatenate(rounds)  # [rounds, runs, metrics]
        for metric in metrics_of([(first.set, first.task)]):
            metrics[metric.key] = values[:, :, metric.column]
    return metrics


def _weights(images: int, settings: BootstrapConfig, name: str) -> Iterator[NDArray[np.float64]]:
    """Yield how often each image is drawn, [some rounds, images]; identical for all tasks of a set."""
    rng = np.random.default_rng([settings.seed, crc32(name.encode())])
    chunk = max(1, _MAX_WEIGHTS // images)
    for start in range(0, settings.rounds, chunk):
        count = min(chunk, settings.rounds - start)
        yield np.stack([np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(count)]).astype(
            np.float64
        )


def _means(weights: NDArray[np.float64], runs: Sequence[Answers]) -> Iterator[NDArray[np.float64]]:
    """Yield the weighted hit rate, [rounds, runs], of each of the task's three metrics."""
    first = runs[0]
    images = weights.shape[1]
    queries = weights @ np.bincount(first.image, minlength=images)
    for column in range(3):
        hits = np.stack([answers.hits[:, column] for answers in runs], axis=1)
        if is_grouped(first.task, column):
            yield _per_class(weights[:, first.image], first.label, hits)
            continue
        sums = np.stack(
            [np.bincount(first.image, weights=hits[:, run], minlength=images) for run in range(len(runs))], axis=1
        )
        yield (weights @ sums) / queries[:, None]


def _per_class(weights: NDArray[np.float64], labels: NDArray[np.int32], hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean per-class recall, [rounds, runs], over the classes in each resample.

    *weights* [rounds, queries] says how often each query is drawn.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sorted_weights = weights[:, order]
    totals = np.add.reduceat(sorted_weights, starts, axis=1)
    present = totals > 0
    means = []
    for run in range(hits.shape[1]):
        correct = np.add.reduceat(sorted_weights * hits[order, run], starts, axis=1)
        recall = np.divide(correct, totals, out=np.zeros_like(correct), where=present)
        means.append(recall.sum(axis=1) / present.sum(axis=1))
    return np.stack(means, axis=1)


def arm_rounds(values: Rounds, runs: Sequence[Sequence[int]], settings: BootstrapConfig) -> Rounds:
    """Return a metric of the arms, [rounds, arms]: the mean over resampled seeds of the models' *values*.

    *runs* has the columns of each arm's models, seed by seed.
    """
    rng = np.random.default_rng([settings.seed, 1])
    draws = rng.random((len(values), max(map(len, runs), default=1)))
    means = []
    for columns in runs:
        count = len(columns)
        chosen = np.asarray(columns)[(draws[:, :count] * count).astype(np.int64)]
        means.append(np.take_along_axis(values, chosen, axis=1).mean(axis=1))
    return np.stack(means, axis=1)


def interval(values: Rounds, confidence: float) -> Interval:
    """Return the central *confidence* interval of *values* [rounds]."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def difference(observed: float, values: Rounds, confidence: float) -> Difference:
    """Return the *observed* difference with its interval over *values* [rounds], and p (minimum 2 / (rounds + 1))."""
    bounds = interval(values, confidence)
    tail = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return Difference(observed, bounds.low, bounds.high, min(1.0, 2 * (tail + 1) / (len(values) + 1)))


def paired_differences(
    first: Sequence[Answers], second: Sequence[Answers], settings: BootstrapConfig
) -> dict[str, Difference]:
    """Return *first* − *second* in each metric, by key. The models answered the same queries, task by task."""
    figures = figures_of(first), figures_of(second)
    return {
        key: difference(figures[0][key] - figures[1][key], values[:, 0] - values[:, 1], settings.confidence)
        for key, values in resample([first, second], settings).items()
    }
