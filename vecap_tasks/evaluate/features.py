"""Image and text features of an exported model, and its evaluation on all sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModel, AutoTokenizer, CLIPImageProcessorPil, CLIPTextConfig
from transformers.utils.logging import disable_progress_bar

from vecap_tasks.config import Ties
from vecap_tasks.core.models import open_device
from vecap_tasks.core.preprocess import preprocess_way, veclip_values
from vecap_tasks.errors import PermanentError
from vecap_tasks.evaluate.choices import choice_hits, pair_hits
from vecap_tasks.evaluate.metrics import Answers
from vecap_tasks.evaluate.probe import probe_hits
from vecap_tasks.evaluate.retrieval import BLOCK, image_to_text_hits, is_hit, text_to_image_hits
from vecap_tasks.evaluate.sets import ChoiceSet, EvaluationSets, ImageFile, RetrievalSet

_NUM_READERS = 8  # threads that read and decode images


class TowerOutputs:
    """Outputs of an image tower, float32 [n, width], by images. They are kept until another tower is used."""

    def __init__(self) -> None:
        self._tower = ""
        self._outputs: dict[tuple[ImageFile, ...], torch.Tensor] = {}

    def of(self, tower: str) -> dict[tuple[ImageFile, ...], torch.Tensor]:
        """Return the outputs of the tower with the digest *tower*."""
        if tower != self._tower:
            self._tower, self._outputs = tower, {}
        return self._outputs


class Encoder:
    """The model in *folder*, a `from_pretrained` checkpoint of a `CLIPModel` or another model with both features.

    Models that are given the same *outputs*, and have the same image tower, encode images once; this is for locked
    towers. Raises ConfigError for an unavailable device.
    """

    def __init__(self, folder: Path, device: str, batch_size: int, outputs: TowerOutputs | None = None) -> None:
        self._device = open_device("evaluate.device", device)
        disable_progress_bar()  # progress bars clutter logs
        self._model = AutoModel.from_pretrained(folder, trust_remote_code=False).to(self._device).eval()
        # CLIP's text tower is causal and pools at the first EOS, so it needs no mask, and was trained without one.
        self._masked = not isinstance(self._model.config.text_config, CLIPTextConfig)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._processor = CLIPImageProcessorPil.from_pretrained(folder, trust_remote_code=False)
        self._batch_size = batch_size
        self._outputs = None if outputs is None else outputs.of(self._tower_digest())

    def _tower_digest(self) -> str:
        """Return the SHA-256 of what determines the tower's output: weights, processor and batches."""
        total = hashlib.sha256(f"{self._processor.to_json_string()} {self._batch_size}".encode())
        for name, weight in sorted(self._model.vision_model.state_dict().items()):
            total.update(name.encode() + weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()

    @torch.inference_mode()
    def images(self, files: Sequence[ImageFile]) -> torch.Tensor:
        """Return L2-normalized features, float32 [n, d]. Raises VecapError for a file that cannot be decoded."""
        batches = self._tower_batches(files)
        return _normalize([self._model.visual_projection(batch.to(self._device)) for batch in batches])

    def _tower_batches(self, files: Sequence[ImageFile]) -> Iterator[torch.Tensor]:
        """Yield the tower's outputs, [batch, width]; from memory if a model with the same tower has computed them."""
        key = tuple(files)
        if self._outputs is not None and key in self._outputs:
            yield from self._outputs[key].split(self._batch_size)
            return
        batches = []
        for start in range(0, len(files), self._batch_size):
            with ThreadPoolExecutor(_NUM_READERS) as pool:
                images = list(pool.map(ImageFile.load, files[start : start + self._batch_size]))
            batch = self._model.vision_model(pixel_values=self._pixels(images)).pooler_output
            if self._outputs is not None:
                batches.append(batch.cpu())
            yield batch
        if self._outputs is not None:
            self._outputs[key] = torch.cat(batches)

    def _pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Return the model's input for *images*: float32 [n, 3, size, size]."""
        if preprocess_way(self._processor) == "veclip":
            size = self._model.config.vision_config.image_size
            return torch.from_numpy(veclip_values(images, size)).to(self._device)
        pixels: torch.Tensor = self._processor(list(images), return_tensors="pt")["pixel_values"]
        return pixels.to(self._device)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return L2-normalized features, float32 [n, d]."""
        batches = []
        for start in range(0, len(texts), self._batch_size):
            batch = list(texts[start : start + self._batch_size])
            # Pad to a constant length, so that a feature does not depend on the other texts of the batch.
            inputs = self._tokenizer(batch, padding="max_length", truncation=True, return_tensors="pt")
            names = ("input_ids", "attention_mask") if self._masked else ("input_ids",)
            tensors = {name: inputs[name].to(self._device) for name in names}
            batches.append(self._model.get_text_features(**tensors).pooler_output)
        return _normalize(batches)


def _normalize(batches: list[torch.Tensor]) -> torch.Tensor:
    features = F.normalize(torch.cat(batches).float().cpu(), dim=-1)
    if not bool(torch.isfinite(features).all()):
        raise PermanentError("the model returns non-finite features; train it again with a lower learning rate")
    return features


@dataclass(frozen=True, slots=True)
class Features:
    """L2-normalized features of one retrieval set: float32 [images, d] and [captions, d]."""

    images: torch.Tensor
    captions: torch.Tensor


def measure(
    encoder: Encoder, sets: EvaluationSets, digests: Sequence[str], ties: Ties
) -> tuple[tuple[Answers, ...], list[Features]]:
    """Return the model's answers on all *sets*, and its features of the retrieval sets.

    *digests* are the digests of the sets, in the order of `EvaluationSets`.
    """
    remaining = iter(digests)
    answers: list[Answers] = []
    features = []
    for dataset in sets.retrieval:
        features.append(Features(encoder.images(dataset.images), encoder.texts(dataset.captions)))
        answers += _retrieval_answers(features[-1], dataset, next(remaining), ties)
    for classified in sets.zero_shot:
        sentences = encoder.texts(class_sentences(classified.classes, classified.templates))
        classes = class_features(sentences, len(classified.classes))
        hits = zero_shot_hits(encoder.images(classified.images), classes, classified.labels, ties)
        image = np.arange(len(hits), dtype=np.int32)
        label = np.asarray(classified.labels, np.int32)
        answers.append(Answers(classified.name, next(remaining), "zero_shot", image, label, hits))
    for choices in sets.choices:
        found = Features(encoder.images(choices.images), encoder.texts(choices.captions))
        answers.append(_choice_answers(found, choices, next(remaining), ties))
    for probe in sets.linear_probe:
        hits = probe_hits(encoder.images(probe.images), probe)
        image, label = np.arange(len(hits), dtype=np.int32), np.asarray(probe.labels[probe.train :], np.int32)
        answers.append(Answers(probe.name, next(remaining), "linear_probe", image, label, hits))
    return tuple(answers), features


def _choice_answers(features: Features, choices: ChoiceSet, digest: str, ties: Ties) -> Answers:
    """Return the answers; questions about one image, or about one pair, are resampled together."""
    if choices.paired:
        pairs = np.arange(len(choices.questions), dtype=np.int32)
        hits = pair_hits(features.images, features.captions, choices, ties)
        return Answers(choices.name, digest, "pair", pairs, np.empty(0, np.int32), hits)
    right = choice_hits(features.images, features.captions, choices, ties)
    image = np.array([question.images[0] for question in choices.questions], np.int32)
    group = np.array([question.group for question in choices.questions], np.int32)
    return Answers(choices.name, digest, "choice", image, group, np.stack([right] * 3, axis=1))


def _retrieval_answers(features: Features, dataset: RetrievalSet, digest: str, ties: Ties) -> list[Answers]:
    no_labels = np.empty(0, np.int32)
    by_image = image_to_text_hits(features.images, features.captions, dataset.caption_of, ties)
    by_text = text_to_image_hits(features.images, features.captions, dataset.caption_of, ties)
    return [
        Answers(dataset.name, digest, "image_to_text", np.arange(len(by_image), dtype=np.int32), no_labels, by_image),
        Answers(dataset.name, digest, "text_to_image", np.asarray(dataset.caption_of, np.int32), no_labels, by_text),
    ]


def class_sentences(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return the prompts of all classes in all templates, class by class."""
    return [template.replace("{}", name) for name in classes for template in templates]


def class_features(sentences: torch.Tensor, classes: int) -> torch.Tensor:
    """Return [classes, d] from the features [classes * templates, d] of `class_sentences`.

    The feature of a class is the normalized mean of the normalized features of its prompts (Radford et al., 2021).
    """
    return F.normalize(sentences.view(classes, -1, sentences.shape[-1]).mean(dim=1), dim=-1)


def zero_shot_hits(
    images: torch.Tensor, classes: torch.Tensor, labels: Sequence[int], ties: Ties = "pessimistic"
) -> NDArray[np.bool_]:
    """Return bool [n, 3] for *images* [n, d] and *classes* [c, d]: label in the top 1, in the top 5, and predicted.

    The last column is for mean per-class recall. It differs from the first only for ties in CLIP_benchmark and
    open_clip, which use `topk` for accuracy and `argmax` for recall.
    """
    correct = torch.tensor(labels)
    hits = []
    for block in torch.arange(len(images)).split(max(1, BLOCK // len(classes))):
        similar, own = images[block] @ classes.T, correct[block]
        if ties == "pessimistic":
            first, five, _ = is_hit(similar, torch.arange(len(block)), own, ties).unbind(dim=1)
            predicted = first
        else:
            top = similar.topk(min(5, len(classes)), dim=1).indices == own[:, None]
            first, five, predicted = top[:, 0], top.any(dim=1), similar.argmax(dim=1) == own
        hits.append(torch.stack([first, five, predicted], dim=1))
    return torch.cat(hits).numpy()
