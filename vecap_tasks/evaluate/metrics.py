"""The metrics by their keys: what they are called, and how they follow from answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vecap_tasks.evaluate.answers import Answers
from vecap_tasks.evaluate.retrieval import chance_image_to_text, chance_text_to_image
from vecap_tasks.evaluate.sets import EvaluationSets

# Task -> the metrics of the three columns of its hits: key and title.
_OF_TASK: dict[str, tuple[tuple[str, str], ...]] = {
    "image_to_text": (
        ("image_to_text_1", "I2T R@1"),
        ("image_to_text_5", "I2T R@5"),
        ("image_to_text_10", "I2T R@10"),
    ),
    "text_to_image": (
        ("text_to_image_1", "T2I R@1"),
        ("text_to_image_5", "T2I R@5"),
        ("text_to_image_10", "T2I R@10"),
    ),
    "zero_shot": (
        ("zero_shot_top1", "zero-shot"),
        ("zero_shot_top5", "top-5"),
        ("zero_shot_mean_per_class", "per class"),
    ),
}
_MEAN_PER_CLASS = "zero_shot_mean_per_class"


@dataclass(frozen=True, slots=True)
class Metric:
    """`key` names it in `results.json` and MLflow; it is read from one column of the answers to a task of a set."""

    key: str
    title: str
    set: str
    task: str
    column: int

    @property
    def per_class(self) -> bool:
        """Whether it is the mean over classes, not over queries."""
        return self.key.endswith(_MEAN_PER_CLASS)


def metrics_of(tasks: Iterable[tuple[str, str]]) -> list[Metric]:
    """Return the metrics of *tasks* (set, task): a key has the set's name before it, where it has one."""
    return [
        Metric(f"{name}.{key}" if name else key, title, name, task, column)
        for name, task in tasks
        for column, (key, title) in enumerate(_OF_TASK[task])
    ]


def figures_of(answers: Iterable[Answers]) -> dict[str, float]:
    """Return every metric of one model, in 0 to 1."""
    by_task = {(one.set, one.task): one for one in answers}
    return {metric.key: _figure(by_task[metric.set, metric.task], metric) for metric in metrics_of(by_task)}


def _figure(answers: Answers, metric: Metric) -> float:
    hits = answers.hits[:, metric.column]
    if not metric.per_class:
        return float(hits.mean())
    total = np.bincount(answers.label)
    right = np.bincount(answers.label, weights=hits)
    there = total > 0
    return float((right[there] / total[there]).mean())


def chances_of(sets: EvaluationSets) -> dict[str, float]:
    """Return what a model that knows nothing is to be expected to reach, by key."""
    made: dict[str, float] = {}
    ks = (1, 5, 10)
    for given in sets.retrieval:
        to_text = (chance_image_to_text(given.caption_of, k) for k in ks)
        to_image = (chance_text_to_image(given.caption_of, k) for k in ks)
        keys = [metric.key for metric in metrics_of([(given.name, "image_to_text"), (given.name, "text_to_image")])]
        made |= dict(zip(keys, (*to_text, *to_image), strict=True))
    for classified in sets.zero_shot:
        count = len(classified.classes)
        keys = [metric.key for metric in metrics_of([(classified.name, "zero_shot")])]
        made |= dict(zip(keys, (1 / count, min(1.0, 5 / count), 1 / count), strict=True))
    return made
