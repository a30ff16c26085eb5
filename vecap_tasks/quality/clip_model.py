"""The CLIP model: features of images, and the similarity of an image and its AltText, the cosine of their features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel
from transformers.utils.logging import disable_progress_bar

from vecap_tasks.core.models import open_device
from vecap_tasks.errors import PermanentError, load_problem

_DECIMALS = 4  # further decimals vary with the device


class Scorer:
    """The CLIP model in *folder*, a `from_pretrained` checkpoint, on *device* (cpu, cuda, ...).

    Raises VecapError if the model cannot be loaded, ConfigError if the device is unavailable.
    """

    def __init__(self, folder: Path, batch_size: int, device: str, threads: int) -> None:
        self._device = open_device("quality.clip.device", device)
        self._batch_size = batch_size
        torch.set_num_threads(threads)
        disable_progress_bar()  # progress bars clutter logs
        try:
            self._model = CLIPModel.from_pretrained(folder, trust_remote_code=False).to(self._device).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._processor = CLIPImageProcessorPil.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise PermanentError(
                f"quality.clip.model: {folder} cannot be loaded as a CLIPModel: {load_problem(error)[:300]}"
            ) from error
        self._lock = Lock()  # tokenizers are not thread-safe
        self._length = self._model.config.text_config.max_position_embeddings

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Return the features of RGB *images*, float32 [`batch_size`, width], on the device; at most `batch_size`.

        Batches are padded to a constant size, so that features do not depend on the other images of the batch: rows
        beyond the images are those of the last one. Raises VecapError if features are not finite.
        """
        padded = [*images, *[images[-1]] * (self._batch_size - len(images))]
        pixels = self._processor(padded, return_tensors="pt")["pixel_values"].to(self._device)
        return _check_finite(self._model.get_image_features(pixel_values=pixels).pooler_output.float())

    @torch.inference_mode()
    def score(self, images: torch.Tensor, texts: Sequence[str]) -> list[float]:
        """Return the cosine similarity, -1 to 1, of the first of the features *images* and each of *texts*.

        *images* are from `embed`. Texts are padded in the same way, to a constant length. Raises VecapError if
        features are not finite.
        """
        padded = [*texts, *[texts[-1]] * (self._batch_size - len(texts))]
        with self._lock:
            tokens = self._tokenizer(
                padded, padding="max_length", max_length=self._length, truncation=True, return_tensors="pt"
            )
        # No attention mask, as in CLIP's training: attention is causal and pooling uses the end-of-text token.
        ids = tokens["input_ids"].to(self._device)
        features = self._model.get_text_features(input_ids=ids).pooler_output.float()
        cosines = _check_finite(F.cosine_similarity(images, features, dim=-1)[: len(texts)].cpu())
        return [round(value, _DECIMALS) for value in cosines.tolist()]


def unit_vectors(features: torch.Tensor) -> list[bytes]:
    """Return each row of *features*, scaled to unit length, as float16."""
    return [vector.tobytes() for vector in F.normalize(features, dim=-1).cpu().numpy().astype("float16")]


def _check_finite(features: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(features).all()):
        raise PermanentError("quality.clip.model returns non-finite features; use another model")
    return features


@lru_cache(maxsize=1)
def load_scorer(folder: Path, digest: str, batch_size: int, device: str, threads: int) -> Scorer:
    """Return the model, loaded once per process; *digest* identifies its files."""
    return Scorer(folder, batch_size, device, threads)
