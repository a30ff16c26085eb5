"""Metrics by key, computed from stored answers: for every query, whether the right answer was found."""

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
        pa.field("query", pa.int32(), nullable=False),  # number in the set: of the image, or of the caption
        pa.field("image", pa.int32(), nullable=False),  # queries of one image are drawn together in a bootstrap
        pa.field("class", pa.int32()),  # zero_shot alone
        pa.field("first_1", pa.bool_(), nullable=False),  # a right answer is among the first so many
        pa.field("first_5", pa.bool_(), nullable=False),
        pa.field("first_10", pa.bool_()),  # retrieval alone
        pa.field("chosen", pa.bool_()),  # zero_shot alone: what mean per class recall counts
    ]
)
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
class Answers:
    """The answers of one model to one task of one set.

    `task` is image_to_text, text_to_image or zero_shot. `image` int32 [n] and `label` int32 [n] (empty but for
    zero_shot) belong to the rows of `hits`, bool [n, 3]: first 1, 5 and 10 in retrieval; first 1, first 5 and chosen
    in zero_shot.
    """

    set: str
    digest: str
    task: str
    image: NDArray[np.int32]
    label: NDArray[np.int32]
    hits: NDArray[np.bool_]


def write_answers(answers: tuple[Answers, ...], path: Path) -> int:
    """Write *answers* to the new parquet *path*; return the rows."""
    return write_rows([_batch(one) for one in answers], SCHEMA, path)


def _batch(one: Answers) -> pa.RecordBatch:
    count = len(one.hits)
    nothing = pa.nulls(count)
    classified = one.task == "zero_shot"
    columns = [
        pa.array([one.set] * count, pa.string()),
        pa.array([one.digest] * count, pa.string()),
        pa.array([one.task] * count, pa.string()),
        pa.array(np.arange(count, dtype=np.int32)),
        pa.array(one.image),
        pa.array(one.label) if classified else nothing,
        pa.array(one.hits[:, 0]),
        pa.array(one.hits[:, 1]),
        nothing if classified else pa.array(one.hits[:, 2]),
        pa.array(one.hits[:, 2]) if classified else nothing,
    ]
    return pa.RecordBatch.from_arrays(columns, names=SCHEMA.names)


def read_answers(data: bytes, where: str) -> tuple[Answers, ...]:
    """Return what `write_answers` wrote. Raises CorruptError naming *where* it lies."""
    try:
        table = pq.read_table(io.BytesIO(data))
        columns = {name: table.column(name).to_numpy() for name in SCHEMA.names}
    except (pa.ArrowInvalid, KeyError) as error:
        raise CorruptError(f"{where} holds no answers: {error}; run `vecap verify`") from error
    made = []
    keys = list(zip(columns["set"], columns["digest"], columns["task"], strict=True))
    for name, digest, task in dict.fromkeys(keys):
        rows = (columns["set"] == name) & (columns["task"] == task)
        classified = task == "zero_shot"
        last = columns["chosen" if classified else "first_10"][rows]
        hits = np.stack([columns["first_1"][rows], columns["first_5"][rows], last], axis=1).astype(np.bool_)
        label = columns["class"][rows].astype(np.int32) if classified else np.empty(0, np.int32)
        made.append(Answers(str(name), str(digest), str(task), columns["image"][rows], label, hits))
    return tuple(made)


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


def chance_image_to_text(caption_of: Sequence[int], k: int) -> float:
    """Return the recall@k to expect of a random order of the captions, any of an image's captions counting."""
    total = len(caption_of)
    counts, images = np.unique(np.bincount(np.asarray(caption_of)), return_counts=True)
    missed = [_misses(total, int(count), k) * int(of) for count, of in zip(counts, images, strict=True)]
    return 1 - sum(missed) / int(images.sum())


def chance_text_to_image(caption_of: Sequence[int], k: int) -> float:
    """Return the recall@k to expect of a random order of the images."""
    return min(1.0, k / len(set(caption_of)))


def _misses(total: int, right: int, k: int) -> float:
    """Return the chance that none of the first *k* of *total* is one of the *right* ones."""
    if k > total - right:
        return 0.0
    return math.comb(total - right, k) / math.comb(total, k)
