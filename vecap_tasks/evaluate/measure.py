"""One model on the evaluation sets: its features, and what it finds by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vecap_tasks.config import Ties
from vecap_tasks.evaluate.answers import Answers
from vecap_tasks.evaluate.features import Encoder
from vecap_tasks.evaluate.retrieval import images_found, texts_found
from vecap_tasks.evaluate.sets import EvaluationSets, RetrievalSet
from vecap_tasks.evaluate.zero_shot import class_features, class_sentences, classes_found


@dataclass(frozen=True, slots=True)
class Features:
    """Features of one retrieval set: float32 [images, d] and [captions, d] of length 1."""

    images: torch.Tensor
    captions: torch.Tensor


def measure(
    encoder: Encoder, sets: EvaluationSets, digests: Sequence[str], ties: Ties
) -> tuple[tuple[Answers, ...], list[Features]]:
    """Return the answers of the *encoder*'s model to all sets, and its features of the retrieval sets.

    *digests* are those of the sets, retrieval first.
    """
    known = iter(digests)
    made: list[Answers] = []
    features = []
    for given in sets.retrieval:
        own = Features(encoder.images(given.pictures), encoder.texts(given.captions))
        made += _retrieval(own, given, next(known), ties)
        features.append(own)
    for classified in sets.zero_shot:
        sentences = encoder.texts(class_sentences(classified.classes, classified.templates))
        classes = class_features(sentences, len(classified.classes))
        hits = classes_found(encoder.images(classified.pictures), classes, classified.labels, ties)
        image = np.arange(len(hits), dtype=np.int32)
        label = np.asarray(classified.labels, np.int32)
        made.append(Answers(classified.name, next(known), "zero_shot", image, label, hits))
    return tuple(made), features


def _retrieval(features: Features, given: RetrievalSet, digest: str, ties: Ties) -> list[Answers]:
    none = np.empty(0, np.int32)
    by_image = images_found(features.images, features.captions, given.caption_of, ties)
    by_text = texts_found(features.images, features.captions, given.caption_of, ties)
    return [
        Answers(given.name, digest, "image_to_text", np.arange(len(by_image), dtype=np.int32), none, by_image),
        Answers(given.name, digest, "text_to_image", np.asarray(given.caption_of, np.int32), none, by_text),
    ]
