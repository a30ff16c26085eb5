"""Draws of the texts of a sample: which one an epoch uses, and which part of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vecap_tasks.config import SubCaptionConfig, Text, TrainConfig, Weights

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])")  # of Latin and of CJK scripts


@dataclass(frozen=True, slots=True)
class Draw:
    """The text number `variant` of a sample, counted over all its texts; `part` (64 bits) draws a part, None: all."""

    variant: int
    part: int | None = None


@dataclass(frozen=True, slots=True)
class TextDraws:
    """Draws texts by *weights*. A draw depends only on seed, uid and epoch, not on batch, process or other samples."""

    seed: int
    weights: Weights
    number: int = 1  # captions of each image
    sub_captions: SubCaptionConfig | None = None

    @classmethod
    def of(cls, config: TrainConfig, weights: Weights, seed: int) -> TextDraws:
        return cls(seed, weights, config.captions_per_image, config.sub_captions)

    def draw(self, uid: str, epoch: int, counts: Sequence[int]) -> list[Draw]:
        """Return the texts of the sample *uid* in *epoch*, `number` of them.

        *counts* are its variants of each text, in the order of `weights`; at least one is not 0. A missing text is
        replaced by the first one that the sample has; a text with weight 0 is used only if it has no other. A text is
        used again, in another variant, after all others.
        """
        key = f"{self.seed}/{uid}/{epoch}"
        texts = list(self.weights)
        present = [number for number, count in enumerate(counts) if count]
        available = [number for number in present if self.weights[texts[number]]] or present[:1]
        left: list[int] = []
        draws = []
        for index in range(self.number):
            left = left or list(available)
            text = self._choose(f"{key}/{index}" if index else key, left)
            left.remove(text)
            variant = 0
            if counts[text] > 1:
                first = _hash64(f"{key}/variant") * counts[text] >> 64
                variant = (first + index // len(available)) % counts[text]
            draws.append(Draw(sum(counts[:text]) + variant, self._part(f"{key}/part/{index}", texts[text])))
        return draws

    def _choose(self, key: str, left: Sequence[int]) -> int:
        """Return the drawn one of the texts *left* (indices in order), or the first if another one is drawn."""
        if len(left) == 1:
            return left[0]
        weights = list(self.weights.values())
        point, bound = _hash64(key), 0.0
        total = sum(weights)
        for text, weight in enumerate(weights):
            bound += weight
            if point < bound / total * 2.0**64:
                return text if text in left else left[0]
        return left[0]

    def _part(self, key: str, text: Text) -> int | None:
        settings = self.sub_captions
        if settings is None or text not in settings.texts:
            return None
        if _hash64(key) >= settings.probability * 2.0**64:
            return None
        return _hash64(f"{key}/sentence")

    def parts(self, text: Text, caption: str) -> list[str]:
        """Return *caption*, a variant of *text*, and its sentences if a draw can use one of them."""
        settings = self.sub_captions
        if settings is None or settings.kind != "sentence" or text not in settings.texts:
            return [caption]
        sentences = split_sentences(caption)
        return [caption, *sentences] if len(sentences) > 1 else [caption]

    def sentence(self, draw: Draw, parts: int) -> int:
        """Return the index of the part that *draw* chose of the *parts* of its text (`parts`), 0 for all of it."""
        return 0 if draw.part is None or parts == 1 else 1 + (draw.part * (parts - 1) >> 64)

    def text(self, draw: Draw, texts: Sequence[Sequence[str]]) -> str:
        """Return what *draw* chose of *texts*, the variants of each text."""
        named = [(name, text) for name, variants in zip(self.weights, texts, strict=True) for text in variants]
        parts = self.parts(*named[draw.variant])
        return parts[self.sentence(draw, len(parts))]

    def limit(self, draw: Draw) -> int:
        """Return the tokens that *draw* keeps of its text, without BOS and EOS; 0: all."""
        settings = self.sub_captions
        return settings.tokens if settings and settings.kind == "tokens" and draw.part is not None else 0


def split_sentences(text: str) -> list[str]:
    """Return the sentences of *text*, split after a full stop, a question mark or an exclamation mark."""
    return [sentence for part in _SENTENCE_END.split(text) if (sentence := part.strip())]


def text_key(weights: Iterable[Text]) -> str:
    """Return the name of a set of texts in the counts of a mixture's record: `alttext+vecap`."""
    return "+".join(sorted(weights))


def _hash64(key: str) -> int:
    """Return a uniform 64-bit hash of *key*."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
