"""The text of each sample: which one an arm takes in an epoch, as token ids made once.

The choice of the arm `mixed` depends on seed, uid and epoch alone, so that it is the same whatever the order of the
samples, the batch size or the point where an interrupted run goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from vecap_tasks.config import Arm
from vecap_tasks.train.data import Sample

Tokens = NDArray[np.int32]  # [n, tokens]
_TOKENISED_AT_ONCE = 4096


def takes_alttext(seed: int, uid: str, epoch: int, probability: float) -> bool:
    """Draw whether the sample *uid* is shown with its AltText in *epoch*, with the given probability."""
    drawn = hashlib.blake2b(f"{seed}/{uid}/{epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big") < probability * 2.0**64


class ArmTexts:
    """The token ids of the *samples* under one arm; every sample must be usable for it."""

    def __init__(
        self,
        samples: Sequence[Sample],
        arm: Arm,
        tokenizer: PreTrainedTokenizerFast,
        *,
        seed: int,
        probability: float,
    ) -> None:
        self._seed = seed
        self._probability = probability
        self._uids = [sample.uid for sample in samples]
        self._pad = int(tokenizer.pad_token_id)
        texts = [
            sample.alttext if arm == "alttext" else sample.vec if arm == "vec" else sample.vecap for sample in samples
        ]
        self._ids = _tokenise(texts, tokenizer)
        self._alttext_ids: Tokens | None = None
        if arm == "mixed":
            self._alttext_ids = _tokenise([sample.alttext for sample in samples], tokenizer)
            self._has_alttext = np.array([bool(sample.alttext) for sample in samples])
            self._has_vecap = np.array([bool(sample.vecap) for sample in samples])

    def take(self, numbers: NDArray[np.int64], epoch: int) -> Tokens:
        """Return the token ids of the samples *numbers* in *epoch*: int32 [n, longest of them]."""
        ids = self._ids[numbers]
        if self._alttext_ids is not None:
            drawn = np.array([takes_alttext(self._seed, self._uids[n], epoch, self._probability) for n in numbers])
            alttext = (drawn & self._has_alttext[numbers]) | ~self._has_vecap[numbers]
            ids = np.where(alttext[:, None], self._alttext_ids[numbers], ids)
        longest = int((ids != self._pad).any(axis=0).nonzero()[0].max()) + 1
        return ids[:, :longest]


def _tokenise(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> Tokens:
    ids = np.empty((len(texts), tokenizer.model_max_length), dtype=np.int32)
    for start in range(0, len(texts), _TOKENISED_AT_ONCE):
        part = list(texts[start : start + _TOKENISED_AT_ONCE])
        made = tokenizer(part, padding="max_length", truncation=True, return_tensors="np")
        ids[start : start + len(part)] = made["input_ids"]
    return ids
