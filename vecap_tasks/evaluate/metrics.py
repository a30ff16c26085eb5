"""Metrics, computed from stored answers (per query: whether the correct answer was retrieved)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vecap_tasks.core.tables import write_rows
from vecap_tasks.errors import CorruptError
from vecap_tasks.evaluate.sets import EvaluationSets

FILE = "answers.parquet"

SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),  # of the set
        pa.field("task", pa.string(), nullable=False),
        pa.field("query", pa.int32(), nullable=False),  # index of the image or caption in the set
        pa.field("image", pa.int32(), nullable=False),  # the bootstrap resamples images with their queries
        pa.field("class", pa.int32()),  # only zero_shot
        pa.field("first_1", pa.bool_(), nullable=False),  # a correct answer is in the top 1, 5 or 10
        pa.field("first_5", pa.bool_(), nullable=False),
        pa.field("first_10", pa.bool_()),  # only retrieval
        pa.field("chosen", pa.bool_()),  # only zero_shot: the prediction for mean per-class recall
    ]
)
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
}
_MEAN_PER_CLASS = "zero_shot_mean_per_class"


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one model on one task of one set.

    `task` is image_to_text, text_to_image or zero_shot. `hits` is bool [n, 3]: in the top 1, 5 and 10 for retrieval;
    top 1, top 5 and predicted for zero_shot. `image` int32 [n] and `label` int32 [n] (empty except for zero_shot)
    belong to its rows.
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
    classified = answers.task == "zero_shot"
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
        classified = task == "zero_shot"
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
        """Whether the metric averages over classes instead of queries."""
        return self.key.endswith(_MEAN_PER_CLASS)


def metrics_of(tasks: Iterable[tuple[str, str]]) -> list[Metric]:
    """Return the metrics of *tasks* (set, task). Keys of named sets have the prefix `{set}.`."""
    return [
        Metric(f"{name}.{key}" if name else key, title, name, task, column)
        for name, task in tasks
        for column, (key, title) in enumerate(_TASK_METRICS[task])
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
    return chances


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
