"""Features of images and texts from an exported model, and one model measured on the evaluation sets."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel
from transformers.utils.logging import disable_progress_bar

from vecap_tasks.config import Ties
from vecap_tasks.core.models import open_device
from vecap_tasks.core.preprocess import preprocess_way, veclip_values
from vecap_tasks.errors import PermanentError
from vecap_tasks.evaluate.metrics import Answers
from vecap_tasks.evaluate.retrieval import image_to_text_hits, text_to_image_hits
from vecap_tasks.evaluate.sets import EvaluationSets, ImageFile, RetrievalSet
from vecap_tasks.evaluate.zero_shot import class_features, class_sentences, zero_shot_hits

_READERS = 8  # images read and decoded side by side


class Encoder:
    """A CLIP model in *folder*, as `from_pretrained` loads it. Raises ConfigError for a device that is not there."""

    def __init__(self, folder: Path, device: str, batch_size: int) -> None:
        self._device = open_device("evaluate.device", device)
        disable_progress_bar()  # it writes a bar for each file, into logs too
        self._model = CLIPModel.from_pretrained(folder).to(self._device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._processor = CLIPImageProcessorPil.from_pretrained(folder)
        self._batch_size = batch_size

    @torch.inference_mode()
    def images(self, pictures: Sequence[ImageFile]) -> torch.Tensor:
        """Return float32 [n, d] of length 1. Raises VecapError naming a file that is no image."""
        made = []
        for start in range(0, len(pictures), self._batch_size):
            with ThreadPoolExecutor(_READERS) as pool:
                opened = list(pool.map(ImageFile.load, pictures[start : start + self._batch_size]))
            made.append(self._model.get_image_features(pixel_values=self._pixels(opened)).pooler_output)
        return _finish(made)

    def _pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Return what the model takes of *images*: float32 [n, 3, size, size]."""
        if preprocess_way(self._processor) == "veclip":
            size = self._model.config.vision_config.image_size
            return torch.from_numpy(veclip_values(images, size)).to(self._device)
        pixels: torch.Tensor = self._processor(list(images), return_tensors="pt")["pixel_values"]
        return pixels.to(self._device)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return float32 [n, d] of length 1."""
        made = []
        for start in range(0, len(texts), self._batch_size):
            part = list(texts[start : start + self._batch_size])
            # Texts of one length for all batches: the same text has the same feature whatever stands beside it.
            ids = self._tokenizer(part, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
            made.append(self._model.get_text_features(input_ids=ids.to(self._device)).pooler_output)
        return _finish(made)


def _finish(made: list[torch.Tensor]) -> torch.Tensor:
    features = F.normalize(torch.cat(made).float().cpu(), dim=-1)
    if not bool(torch.isfinite(features).all()):
        raise PermanentError("the model gives features that are not finite; train it again with a lower learning rate")
    return features


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
        own = Features(encoder.images(given.images), encoder.texts(given.captions))
        made += _retrieval(own, given, next(known), ties)
        features.append(own)
    for classified in sets.zero_shot:
        sentences = encoder.texts(class_sentences(classified.classes, classified.templates))
        classes = class_features(sentences, len(classified.classes))
        hits = zero_shot_hits(encoder.images(classified.images), classes, classified.labels, ties)
        image = np.arange(len(hits), dtype=np.int32)
        label = np.asarray(classified.labels, np.int32)
        made.append(Answers(classified.name, next(known), "zero_shot", image, label, hits))
    return tuple(made), features


def _retrieval(features: Features, given: RetrievalSet, digest: str, ties: Ties) -> list[Answers]:
    none = np.empty(0, np.int32)
    by_image = image_to_text_hits(features.images, features.captions, given.caption_of, ties)
    by_text = text_to_image_hits(features.images, features.captions, given.caption_of, ties)
    return [
        Answers(given.name, digest, "image_to_text", np.arange(len(by_image), dtype=np.int32), none, by_image),
        Answers(given.name, digest, "text_to_image", np.asarray(given.caption_of, np.int32), none, by_text),
    ]
