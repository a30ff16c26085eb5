"""A LLaVA-shaped model with random weights, and what its device could do at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

PROMPT, NEW = 20, 32  # tokens of the question, and of the answer
_IMAGE_TOKEN = 5


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths and depths of vision tower and language model; the image has (side / patch) squared tokens."""

    name: str
    dtype: torch.dtype
    side: int
    patch: int
    vision: tuple[int, int, int, int]  # width, inner width, layers, heads
    text: tuple[int, int, int, int]
    vocabulary: int


SEVEN = Shape("LLaVA-1.5-7B", torch.bfloat16, 336, 14, (1024, 4096, 24, 16), (4096, 11008, 32, 32), 32064)
TINY = Shape("tiny LLaVA", torch.float32, 64, 16, (128, 512, 2, 4), (256, 688, 4, 4), 2048)


class Shaped:
    """A model of *shape* on *device*."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape, self.device = shape, device
        (width, inner, layers, heads), text = shape.vision, shape.text
        self.image_tokens = (shape.side // shape.patch) ** 2
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                image_size=shape.side, patch_size=shape.patch,
            ),
            text_config=LlamaConfig(
                hidden_size=text[0], intermediate_size=text[1], num_hidden_layers=text[2],
                num_attention_heads=text[3], vocab_size=shape.vocabulary, max_position_embeddings=4096,
            ),
            image_token_index=_IMAGE_TOKEN, image_seq_length=self.image_tokens,
        )  # fmt: skip
        before = torch.get_default_dtype()
        torch.set_default_dtype(shape.dtype)
        try:
            with torch.device(device):
                self.model = LlavaForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(before)
        self.model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0, eos_token_id=2, bos_token_id=1
        )
        self.bytes = sum(weight.nbytes for weight in self.model.parameters())
        self.parameters = sum(weight.numel() for weight in self.model.model.language_model.parameters())

    def seconds(self, rows: int) -> float:
        """Return the wall clock of one batch of *rows*: images in, `NEW` tokens a row out."""
        side = self.shape.side
        pixels = torch.zeros(rows, 3, side, side, dtype=self.shape.dtype, device=self.device)
        ids = torch.full((rows, self.image_tokens + PROMPT), 7, device=self.device)
        ids[:, 1 : 1 + self.image_tokens] = _IMAGE_TOKEN
        with torch.inference_mode():
            return timed(
                self.device,
                lambda: self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels),
            )

    def least_seconds(self, rows: int, bandwidth: float, rate: float) -> float:
        """Return what a batch takes at least: products of the prompt at *rate* (FLOP/s), then for each new token the
        weights and the cache once through memory at *bandwidth* (bytes/s), or its products where those take longer."""
        layers, width = self.shape.text[2], self.shape.text[0]
        prompt = self.image_tokens + PROMPT
        cache = 2 * layers * width * self.shape.dtype.itemsize * (prompt + NEW / 2) * rows
        step = max((self.bytes + cache) / bandwidth, 2 * self.parameters * rows / rate)
        return 2 * self.parameters * prompt * rows / rate + (NEW - 1) * step


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds of *work*, the device's queue empty before and after."""

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    settle()
    begun = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - begun


def device_limits(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Measure the bytes a second that the device copies (read and written) and its FLOP a second in products."""
    size = 8192 if device.type == "cuda" else 1024
    one = torch.ones(size, size, dtype=dtype, device=device)
    block = torch.ones((1 << 30 if device.type == "cuda" else 1 << 27) // 4, device=device)
    copy = torch.empty_like(block)
    rates = [2 * size**3 / timed(device, lambda: one @ one) for _ in range(8)]
    copies = [2 * block.nbytes / timed(device, lambda: copy.copy_(block)) for _ in range(8)]
    return max(copies), max(rates)


def largest_batch(shaped: Shaped, most: int) -> int:
    """Return the largest power of two, up to *most*, of rows that fit into the device's memory."""
    rows = 1
    while rows < most:
        try:
            shaped.seconds(rows * 2)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        rows *= 2
    return rows
