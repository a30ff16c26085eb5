"""A CLIP model that scores how well an image and its AltText agree: the cosine of their features."""

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

_DECIMALS = 4  # what a score is kept to: finer is rounding of the device


class Scorer:
    """The model in *folder*, as `from_pretrained` loads it, on *device* (cpu, cuda …).

    Raises VecapError where the folder holds no CLIP model, ConfigError where there is no such device.
    """

    def __init__(self, folder: Path, batch_size: int, device: str, threads: int) -> None:
        self._device = open_device("quality.clip.device", device)
        self._batch_size = batch_size
        torch.set_num_threads(threads)
        disable_progress_bar()  # it writes a bar for each file, into logs too
        try:
            self._model = CLIPModel.from_pretrained(folder).to(self._device).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._processor = CLIPImageProcessorPil.from_pretrained(folder)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise PermanentError(
                f"quality.clip.model: {folder} cannot be loaded as a CLIPModel: {load_problem(error)[:300]}"
            ) from error
        self._lock = Lock()  # a tokenizer serves one thread
        self._length = self._model.config.text_config.max_position_embeddings

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @torch.inference_mode()
    def score(self, pairs: Sequence[tuple[Image.Image, str]]) -> list[float]:
        """Return the cosine, -1 to 1, of each image (RGB) with its text: at most `batch_size` pairs.

        The model always sees a full batch of texts of one length, so that a score does not follow what stands beside
        it. Raises VecapError where the model gives no finite features.
        """
        full = [*pairs, *[pairs[-1]] * (self._batch_size - len(pairs))]
        pixels = self._processor([image for image, _ in full], return_tensors="pt")["pixel_values"]
        captions = [text for _, text in full]
        with self._lock:
            tokens = self._tokenizer(
                captions, padding="max_length", max_length=self._length, truncation=True, return_tensors="pt"
            )
        # Without the mask, as CLIP was trained: it attends to the left alone, and pools at the end of the text.
        ids = tokens["input_ids"].to(self._device)
        images = self._model.get_image_features(pixel_values=pixels.to(self._device)).pooler_output
        texts = self._model.get_text_features(input_ids=ids).pooler_output
        cosines = F.cosine_similarity(images.float(), texts.float(), dim=-1)[: len(pairs)].cpu()
        if not bool(torch.isfinite(cosines).all()):
            raise PermanentError("quality.clip.model gives features that are not finite; give another model")
        return [round(value, _DECIMALS) for value in cosines.tolist()]


@lru_cache(maxsize=1)
def load_scorer(folder: Path, digest: str, batch_size: int, device: str, threads: int) -> Scorer:
    """Load the model, once in a process however many shards it scores; *digest* is of its files."""
    return Scorer(folder, batch_size, device, threads)
