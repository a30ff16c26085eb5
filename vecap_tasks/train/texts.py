"""Texts as token ids, one after the other in one array: nothing is padded before it is in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

Tokens = NDArray[np.int32]  # [n, tokens]


class TokenisedTexts:
    """Token ids of texts by their number, each cut to the tokenizer's context."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._pad = int(tokenizer.pad_token_id)
        self._flat: list[NDArray[np.int32]] = []
        self._sizes: list[NDArray[np.int32]] = []
        self._ids: NDArray[np.int32] | None = None
        self._starts = np.zeros(1, np.int64)

    def add(self, texts: Sequence[str]) -> None:
        """Tokenise *texts* and put them behind those that are there."""
        if not texts:
            return
        made = self._tokenizer(list(texts), truncation=True, return_attention_mask=False)["input_ids"]
        self._flat.append(np.fromiter((token for ids in made for token in ids), np.int32))
        self._sizes.append(np.fromiter((len(ids) for ids in made), np.int32, len(made)))
        self._ids = None

    def take(self, numbers: NDArray[np.int64]) -> Tokens:
        """Return the ids of the texts *numbers*: int32 [n, longest of them], padded on the right."""
        if self._ids is None:
            self._ids = np.concatenate(self._flat)
            self._starts = np.concatenate([[0], np.cumsum(np.concatenate(self._sizes), dtype=np.int64)])
            self._flat, self._sizes = [self._ids], [np.diff(self._starts).astype(np.int32)]
        starts, stops = self._starts[numbers], self._starts[numbers + 1]
        places = starts[:, None] + np.arange((stops - starts).max())
        within = places < stops[:, None]
        return np.where(within, self._ids[np.where(within, places, 0)], np.int32(self._pad))
