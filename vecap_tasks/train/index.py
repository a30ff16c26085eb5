"""The index of a set that is shuffled as a whole: where each image lies, and its texts, in arrays, not in objects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from vecap_tasks.train.source import Sample, Shard, Source, Tally, draw, read_samples
from vecap_tasks.train.texts import TokenisedTexts, Tokens

_AT_ONCE = 4096  # samples that are objects, on their way into the arrays


class Index:
    """The samples of *sources* with a text for their arm, numbered through in the order of sources, shards and tars.

    `shards`, `shard` (int32, into it), `offset` (int64) and `size` (int64), in bytes, say where the image of each
    lies; `bounds` has the number of each source's first sample, and the end; `tallies` what was met in each source.
    """

    def __init__(self, sources: Sequence[Source], tokenizer: PreTrainedTokenizerFast) -> None:
        self.sources = tuple(sources)
        self.shards = tuple(shard for source in sources for shard in source.shards)
        self.tallies = tuple(Tally() for _ in sources)
        self._texts = TokenisedTexts(tokenizer)
        uids: list[pa.Array] = []
        columns: list[NDArray[np.int64]] = []  # shard, offset, size, texts, alttexts
        bounds = [0]
        number = 0
        for source, tally in zip(sources, self.tallies, strict=True):
            for shard in source.shards:
                for made in _columns(shard, source, tally, self._texts):
                    uids.append(made[0])
                    columns.append(np.vstack([np.full(len(made[0]), number), made[1]]))
                number += 1
            bounds.append(bounds[-1] + tally.usable)
        self._uids: pa.Array = pa.chunked_array(uids, pa.string()).combine_chunks()
        every = np.concatenate(columns, axis=1) if columns else np.zeros((5, 0), np.int64)
        self.shard, self.offset, self.size = every[0].astype(np.int32), every[1], every[2]
        self._first_text = np.concatenate([[0], np.cumsum(every[3])])
        self._alttexts = every[4].astype(np.uint8)
        self.bounds = np.array(bounds)

    def __len__(self) -> int:
        return len(self.offset)

    def uids(self, numbers: NDArray[np.int64]) -> tuple[str, ...]:
        """Return the names of the samples *numbers*."""
        return tuple(self._uids.take(pa.array(numbers)).to_pylist())

    def tokens(self, numbers: NDArray[np.int64], turns: NDArray[np.int64], seed: int) -> Tokens:
        """Return the ids of the texts that *numbers* are shown with in the passes *turns*: int32 [n, longest]."""
        first = self._first_text[numbers]
        count = self._first_text[numbers + 1] - first
        alttexts = self._alttexts[numbers]
        taken = np.zeros(len(numbers), np.int64)
        several = np.flatnonzero(count > 1)
        for row, uid in zip(several, self.uids(numbers[several]), strict=True):
            source = self.sources[int(np.searchsorted(self.bounds, numbers[row], side="right")) - 1]
            taken[row] = draw(seed, uid, int(turns[row]), int(alttexts[row]), int(count[row]), source.mixed_p)
        return self._texts.take(first + taken)


def _columns(
    shard: Shard, source: Source, tally: Tally, texts: TokenisedTexts
) -> list[tuple[pa.Array, NDArray[np.int64]]]:
    """Return uids and offset, size, texts, alttexts of the samples of *shard*, and add what they say to *texts*."""
    made = []
    with shard.open() as stream:
        samples = read_samples(stream, shard, source, tally)
        while part := list(islice(samples, _AT_ONCE)):
            texts.add([text for sample in part for text in sample.texts])
            made.append((pa.array([sample.uid for sample in part], pa.string()), _numbers(part)))
    return made


def _numbers(samples: Sequence[Sample]) -> NDArray[np.int64]:
    rows = [(sample.offset, sample.size, len(sample.texts), sample.alttexts) for sample in samples]
    return np.array(rows, np.int64).T
