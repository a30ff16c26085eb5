"""What the loop trains on: batches that follow from the seed alone, whoever asks for them and from which step on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's part of a global batch: `uids[i]`, `pixels[i]` and `ids[i]` are one sample."""

    step: int  # from 0
    epoch: int  # from 0
    place: int  # batch within the epoch, from 0
    uids: tuple[str, ...]
    pixels: NDArray[np.uint8]  # [n, size, size, 3]
    ids: NDArray[np.int32]  # [n, tokens], padded to the longest of this part, or to the context


class TrainingData(Protocol):
    """The samples of a run in their batches, in memory or streamed.

    Which samples a global batch holds, in which order and with which texts depends on seed, uid, epoch and recipe
    alone. Of `world` ranks, a number that divides `batch_size` B, rank r gets the rows from r * B / world up to
    (r + 1) * B / world.
    """

    samples: int  # of an epoch, those that have a text for the arm
    left_out: int
    batch_size: int  # global, in samples
    per_epoch: int  # global batches of an epoch
    steps: int  # of the whole run

    def batches(self, first: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Give the batches of the steps *first* … `steps` - 1, read ahead."""
