"""What a model answered: for every query whether the right answer was found. All figures follow from it, and what
another model answered to the same queries can be compared with it, query by query.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vecap_tasks.dataset.parquet import write_rows
from vecap_tasks.errors import DamagedError

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
    """Return what `write_answers` wrote. Raises DamagedError naming *where* it lies."""
    try:
        table = pq.read_table(io.BytesIO(data))
        columns = {name: table.column(name).to_numpy() for name in SCHEMA.names}
    except (pa.ArrowInvalid, KeyError) as error:
        raise DamagedError(f"{where} holds no answers: {error}; run `vecap verify`") from error
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
