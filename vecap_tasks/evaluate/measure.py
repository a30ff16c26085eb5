"""The figures of one model on an evaluation set, and those of chance."""

from __future__ import annotations

from dataclasses import dataclass

from vecap_tasks.evaluate.dataset import EvaluationSet
from vecap_tasks.evaluate.features import Encoder
from vecap_tasks.evaluate.retrieval import (
    chance_image_to_text,
    chance_text_to_image,
    image_ranks,
    recall,
    text_ranks,
)
from vecap_tasks.evaluate.zero_shot import class_features, class_sentences, top1


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares in 0 to 1: recall@1/5/10 from image to text and from text to image, and zero-shot top-1."""

    image_to_text_1: float
    image_to_text_5: float
    image_to_text_10: float
    text_to_image_1: float
    text_to_image_5: float
    text_to_image_10: float
    zero_shot_top1: float


def measure(encoder: Encoder, given: EvaluationSet) -> Figures:
    """Return the figures of the *encoder*'s model on the evaluation set."""
    images = encoder.images([given.folder / name for name in given.images])
    texts = encoder.texts(given.captions)
    by_image = image_ranks(images, texts, given.caption_of)
    by_text = text_ranks(images, texts, given.caption_of)
    sentences = encoder.texts(class_sentences(given.classes, given.templates))
    classes = class_features(sentences, len(given.classes))
    return Figures(
        image_to_text_1=recall(by_image, 1),
        image_to_text_5=recall(by_image, 5),
        image_to_text_10=recall(by_image, 10),
        text_to_image_1=recall(by_text, 1),
        text_to_image_5=recall(by_text, 5),
        text_to_image_10=recall(by_text, 10),
        zero_shot_top1=top1(images[list(given.label_of)], classes, given.labels),
    )


def chance(given: EvaluationSet) -> Figures:
    """Return the figures to expect of a model that knows nothing."""
    return Figures(
        image_to_text_1=chance_image_to_text(given.caption_of, 1),
        image_to_text_5=chance_image_to_text(given.caption_of, 5),
        image_to_text_10=chance_image_to_text(given.caption_of, 10),
        text_to_image_1=chance_text_to_image(given.caption_of, 1),
        text_to_image_5=chance_text_to_image(given.caption_of, 5),
        text_to_image_10=chance_text_to_image(given.caption_of, 10),
        zero_shot_top1=1 / len(given.classes),
    )
