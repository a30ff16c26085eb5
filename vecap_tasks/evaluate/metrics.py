"""Metrics, computed from stored answers (per query: whether the correct answer was retrieved)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vecap_tasks.core.tables import write_rows
from vecap_tasks.errors import CorruptError
from vecap_tasks.evaluate.sets import ChoiceSet, EvaluationSets

FILE = "answers.parquet"

SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),  # of the set
        pa.field("task", pa.string(), nullable=False),
        pa.field("query", pa.int32(), nullable=False),  # index of the image or caption in the set
        pa.field("image", pa.int32(), nullable=False),  # the bootstrap resamples images with their queries
        pa.field("class", pa.int32()),  # only in `_GROUPED`: the class, or the group of a choice
        # Whether a correct answer is in the top 1, 5 or 10. Choices: whether the answer is right, in all columns.
        # Pairs: whether the captions, the images, and both are matched.
        pa.field("first_1", pa.bool_(), nullable=False),
        pa.field("first_5", pa.bool_(), nullable=False),
        pa.field("first_10", pa.bool_()),  # only retrieval and pairs
        pa.field("chosen", pa.bool_()),  # only in `_GROUPED`: the prediction for the mean over classes or groups
    ]
)
_GROUPED = ("zero_shot", "choice", "linear_probe")
# Metrics (key, title) of the three columns of hits, by task.
_TASK_METRICS: dict[str, tuple[tuple[str, str], ...]] = {
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
    "choice": (("choice_accuracy", "choice"), ("", ""), ("choice_mean_per_group", "per group")),
    "pair": (("pair_text", "text score"), ("pair_image", "image score"), ("pair_group", "group score")),
    "linear_probe": (
        ("probe_top1", "probe"),
        ("probe_top5", "probe top-5"),
        ("probe_mean_per_class", "probe per class"),
    ),
}


_PAIR_CHANCES = (1 / 4, 1 / 4, 1 / 6)  # of random similarities


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one model on one task of one set.

    `task` is image_to_text, text_to_image, zero_shot, choice, pair or linear_probe. `hits` is bool [n, 3]: in the top
    1, 5 and 10 for retrieval; top 1, top 5 and predicted for zero_shot and linear_probe; right, three times, for
    choice; text, image and group score for pair (Winoground). `image` int32 [n] and `label` int32 [n] (the class or
    group; empty for retrieval and pair) belong to its rows.
    """

    set: str
    digest: str
    task: str
    image: NDArray[np.int32]
    label: NDArray[np.int32]
    hits: NDArray[np.bool_]


def write_answers(answers: tuple[Answers, ...], path: Path) -> int:
    """Write *answers* to the parquet file *path*; return the number of rows."""
    return write_rows([_to_batch(task) for task in answers], SCHEMA, path)


def _to_batch(answers: Answers) -> pa.RecordBatch:
    count = len(answers.hits)
    nulls = pa.nulls(count)
    classified = answers.task in _GROUPED
    columns = [
        pa.array([answers.set] * count, pa.string()),
        pa.array([answers.digest] * count, pa.string()),
        pa.array([answers.task] * count, pa.string()),
        pa.array(np.arange(count, dtype=np.int32)),
        pa.array(answers.image),
        pa.array(answers.label) if classified else nulls,
        pa.array(answers.hits[:, 0]),
        pa.array(answers.hits[:, 1]),
        nulls if classified else pa.array(answers.hits[:, 2]),
        pa.array(answers.hits[:, 2]) if classified else nulls,
    ]
    return pa.RecordBatch.from_arrays(columns, names=SCHEMA.names)


def read_answers(data: bytes, where: str) -> tuple[Answers, ...]:
    """Parse the output of `write_answers`. Raises CorruptError naming *where*."""
    try:
        table = pq.read_table(io.BytesIO(data))
        columns = {name: table.column(name).to_numpy() for name in SCHEMA.names}
    except (pa.ArrowInvalid, KeyError) as error:
        raise CorruptError(f"{where} is corrupt: {error}; run `vecap verify`") from error
    answers = []
    keys = list(zip(columns["set"], columns["digest"], columns["task"], strict=True))
    for name, digest, task in dict.fromkeys(keys):
        rows = (columns["set"] == name) & (columns["task"] == task)
        classified = task in _GROUPED
        last = columns["chosen" if classified else "first_10"][rows]
        hits = np.stack([columns["first_1"][rows], columns["first_5"][rows], last], axis=1).astype(np.bool_)
        label = columns["class"][rows].astype(np.int32) if classified else np.empty(0, np.int32)
        answers.append(Answers(str(name), str(digest), str(task), columns["image"][rows], label, hits))
    return tuple(answers)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: `key` is its name in `results.json` and MLflow, `column` its column of a task's hits."""

    key: str
    title: str
    set: str
    task: str
    column: int

    @property
    def per_class(self) -> bool:
        """Whether the metric averages over classes or groups instead of queries."""
        return is_grouped(self.task, self.column)


def is_grouped(task: str, column: int) -> bool:
    """Return whether a metric averages over classes or groups: that of the last column of some tasks."""
    return task in _GROUPED and column == 2


def metrics_of(tasks: Iterable[tuple[str, str]]) -> list[Metric]:
    """Return the metrics of *tasks* (set, task). Keys of named sets have the prefix `{set}.`."""
    return [
        Metric(f"{name}.{key}" if name else key, title, name, task, column)
        for name, task in tasks
        for column, (key, title) in enumerate(_TASK_METRICS[task])
        if key
    ]


def figures_of(answers: Iterable[Answers]) -> dict[str, float]:
    """Return all metrics of one model by key, from 0 to 1."""
    by_task = {(task.set, task.task): task for task in answers}
    return {metric.key: _compute(by_task[metric.set, metric.task], metric) for metric in metrics_of(by_task)}


def _compute(answers: Answers, metric: Metric) -> float:
    hits = answers.hits[:, metric.column]
    if not metric.per_class:
        return float(hits.mean())
    total = np.bincount(answers.label)
    correct = np.bincount(answers.label, weights=hits)
    present = total > 0
    return float((correct[present] / total[present]).mean())


def chances_of(sets: EvaluationSets) -> dict[str, float]:
    """Return the chance level of each metric by key."""
    chances: dict[str, float] = {}
    ks = (1, 5, 10)
    for dataset in sets.retrieval:
        to_text = (chance_image_to_text(dataset.caption_of, k) for k in ks)
        to_image = (chance_text_to_image(dataset.caption_of, k) for k in ks)
        keys = [metric.key for metric in metrics_of([(dataset.name, "image_to_text"), (dataset.name, "text_to_image")])]
        chances |= dict(zip(keys, (*to_text, *to_image), strict=True))
    for classified in sets.zero_shot:
        count = len(classified.classes)
        keys = [metric.key for metric in metrics_of([(classified.name, "zero_shot")])]
        chances |= dict(zip(keys, (1 / count, min(1.0, 5 / count), 1 / count), strict=True))
    for choices in sets.choices:
        task = "pair" if choices.paired else "choice"
        keys = [metric.key for metric in metrics_of([(choices.name, task)])]
        chances |= dict(zip(keys, _PAIR_CHANCES if choices.paired else _chance_choices(choices), strict=True))
    for probe in sets.linear_probe:
        count = len(probe.classes)
        keys = [metric.key for metric in metrics_of([(probe.name, "linear_probe")])]
        chances |= dict(zip(keys, (1 / count, min(1.0, 5 / count), 1 / count), strict=True))
    return chances


def _chance_choices(choices: ChoiceSet) -> tuple[float, float]:
    """Return the expected accuracy of random answers, and its mean over the groups."""
    groups: dict[int, list[float]] = {}
    for question in choices.questions:
        groups.setdefault(question.group, []).append(1 / len(question.captions))
    every = [chance for chances in groups.values() for chance in chances]
    return fmean(every), fmean(map(fmean, groups.values()))


def chance_image_to_text(caption_of: Sequence[int], k: int) -> float:
    """Return the expected recall@k of a random ranking of the captions; any caption of an image is correct."""
    total = len(caption_of)
    counts, images = np.unique(np.bincount(np.asarray(caption_of)), return_counts=True)
    missed = [_miss_probability(total, int(count), k) * int(n) for count, n in zip(counts, images, strict=True)]
    return 1 - sum(missed) / int(images.sum())


def chance_text_to_image(caption_of: Sequence[int], k: int) -> float:
    """Return the expected recall@k of a random ranking of the images."""
    return min(1.0, k / len(set(caption_of)))


def _miss_probability(total: int, correct: int, k: int) -> float:
    """Return the probability that the top *k* of *total* items contain none of *correct* items."""
    if k > total - correct:
        return 0.0
    return math.comb(total - correct, k) / math.comb(total, k)
