"""The straightforward captioning loop: one image, the processor, `generate`, the next image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


class Naive:
    """A checkpoint loaded with transformers that captions images with *prompt*."""

    def __init__(self, folder: Path, prompt: str, new_tokens: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self._processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._model = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ).eval()
        self._new_tokens = new_tokens
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        self._text = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )

    def prompt_products(self, image: bytes) -> float:
        """Return the FLOP of the matrix products for one prompt with its image."""
        inputs = self._processor(text=self._text, images=Image.open(io.BytesIO(image)), return_tensors="pt")
        parts = self._model.model
        patch = parts.vision_tower.config.patch_size
        patches = inputs["pixel_values"][0, 0].numel() // patch**2
        layers = sum(weight.numel() for weight in parts.language_model.layers.parameters())
        tower = sum(weight.numel() for weight in parts.vision_tower.parameters())
        return 2.0 * (layers * inputs["input_ids"].shape[1] + tower * patches)

    def caption(self, images: Sequence[bytes]) -> list[str]:
        captions = []
        for data in images:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            inputs = self._processor(text=self._text, images=image, return_tensors="pt")
            with torch.inference_mode():
                ids = self._model.generate(**inputs, max_new_tokens=self._new_tokens, do_sample=False)
            new = ids[:, inputs["input_ids"].shape[1] :]
            captions.append(" ".join(self._processor.batch_decode(new, skip_special_tokens=True)[0].split()))
        return captions
