"""A VLM with the shape of LLaVA-1.5-7B and random weights: our captioning compared with plain `generate`.

    python -m benchmarks.llava [--json FILE] [--rounds N] [--batch N] [--batches N]

Runs in bfloat16 on a GPU if available, else with a tiny model on the CPU. Ours goes from JPEGs in a tar to texts:
decoding and preprocessing run ahead, and batches are halved until they fit. Theirs is the same model's `generate`, at
batch 1 and at the largest batch that fits, with inputs already on the device. The limit follows from measured device
rates: matrix products of the prompt, then weights and KV cache through memory for every new token.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.photographs import as_jpeg, photograph
from benchmarks.report import Measure, alternate, machine, median, report
from vecap_tasks.config import ModelConfig
from vecap_tasks.core import tar as tars
from vecap_tasks.core.models import Checkpoint
from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.rewrite.accepted_rows import Row, read_images
from vecap_tasks.rewrite.backends.sampling_params import GREEDY, GeneratedText
from vecap_tasks.rewrite.backends.transformers import Inputs
from vecap_tasks.rewrite.prompt import Prompt
from vecap_tasks.rewrite.vlm import Vlm, load_processor

_WORDS, _NEW = 20, 32  # tokens of a prompt in addition to its image, and of an answer
_IMAGES = 64  # distinct photographs; copies are decoded each time
_MAX_BATCH = 512
_TOKENIZER = Path(__file__).resolve().parent.parent / "vecap_tasks" / "demo" / "models" / "vlm"


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths and depths of vision tower and language model; an image has (side / patch)² tokens."""

    name: str
    dtype: str
    side: int
    patch: int
    vision: tuple[int, int, int, int]  # width, inner width, layers, heads
    text: tuple[int, int, int, int]
    vocabulary: int

    @property
    def image_tokens(self) -> int:
        return (self.side // self.patch) ** 2

    @property
    def prompt_tokens(self) -> int:
        return self.image_tokens + _WORDS


_SEVEN = Shape("LLaVA-1.5-7B", "bfloat16", 336, 14, (1024, 4096, 24, 16), (4096, 11008, 32, 32), 32064)
_TINY = Shape("tiny LLaVA", "float32", 64, 16, (128, 512, 2, 4), (256, 688, 4, 4), 2048)


def write_checkpoint(shape: Shape, device: torch.device, folder: Path) -> Checkpoint:
    """Write a model with random weights, created on *device*, and the demo's processor for this image size."""
    processor = load_processor(_TOKENIZER)
    tokenizer, images = processor.tokenizer, processor.image_processor
    images.size, images.crop_size = {"shortest_edge": shape.side}, {"height": shape.side, "width": shape.side}
    processor.patch_size = shape.patch
    (width, inner, layers, heads), text = shape.vision, shape.text
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
            image_size=shape.side, patch_size=shape.patch,
        ),
        text_config=LlamaConfig(
            hidden_size=text[0], intermediate_size=text[1], num_hidden_layers=text[2], num_attention_heads=text[3],
            num_key_value_heads=text[3], vocab_size=shape.vocabulary, max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids(processor.image_token), image_seq_length=shape.image_tokens,
    )  # fmt: skip
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, shape.dtype))
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default_dtype)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Checkpoint(shape.name, folder, "", sum(weight.nbytes for weight in model.parameters()))


def load(checkpoint: Checkpoint, shape: Shape, batch: int, threads: int, device: torch.device) -> Vlm:
    """Load the VLM with a prompt of the required number of tokens in addition to the image."""
    settings = ModelConfig(
        model=checkpoint.name, prompt="describe", max_new_tokens=_NEW, batch_size=batch, dtype=shape.dtype,
        threads=threads, device=device.type,
    )  # fmt: skip
    processor = load_processor(checkpoint.folder)
    for words in range(1, _WORDS + 1):
        text = " ".join(["picture"] * words)
        content = [{"type": "image"}, {"type": "text", "text": text}]
        chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        if len(processor.tokenizer(chat)["input_ids"]) == _WORDS + 1:  # one is the image token
            return Vlm(checkpoint, settings, Prompt("words", text, None, ""))
    raise AssertionError(f"found no prompt of {_WORDS} tokens")


class Tar:
    """Photographs in a shard like those of a crawl, short side 256."""

    def __init__(self, folder: Path, count: int) -> None:
        self._store = Store(str(folder))
        self._rows = [Row(f"{number:09d}", f"{number:032x}", f"{number}", None, "00000.tar") for number in range(count)]
        images = [as_jpeg(photograph(number, (341, 256)), 95) for number in range(min(_IMAGES, count))]
        with TarWriter(folder / "00000.tar") as tar:
            for number, row in enumerate(self._rows):
                tar.write(row.key, {"jpg": images[number % len(images)]})

    def caption(self, vlm: Vlm) -> list[GeneratedText]:
        """Describe every image with *vlm*, like the stage."""
        return vlm.describe((image, GREEDY) for image in read_images(self._stored, self._rows, vlm.decoders))

    def _stored(self, tar: str, wanted: Mapping[str, str | None]) -> Iterator[tuple[str, bytes]]:
        with self._store.open(tar) as stream:
            yield from tars.read_images(stream, tar, wanted, "run the benchmark again")


class Plain:
    """The same weights with plain `generate`."""

    def __init__(self, vlm: Vlm, shape: Shape) -> None:
        self._model = vlm.generator.model
        self._shape = shape

    def seconds(self, rows: int) -> float:
        """Return the seconds that one batch of *rows* takes; generates the maximum number of tokens."""
        device, side = self._model.device, self._shape.side
        torch.manual_seed(rows)
        ids = torch.full((rows, self._shape.prompt_tokens), 7, device=device)
        ids[:, 1 : 1 + self._shape.image_tokens] = self._model.config.image_token_id
        inputs: Inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.randn(rows, 3, side, side, dtype=self._model.dtype, device=device),
        }
        generation = GenerationConfig(
            do_sample=False, max_new_tokens=_NEW, min_new_tokens=_NEW, pad_token_id=0, eos_token_id=2
        )
        with torch.inference_mode():
            return timed(device, lambda: self._model.generate(**inputs, generation_config=generation))

    def largest_batch(self) -> int:
        """Return the largest power of two of rows that fits in device memory."""
        rows = 1
        while rows < _MAX_BATCH:
            try:
                self.seconds(rows * 2)
            except torch.OutOfMemoryError:
                break
            rows *= 2
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return rows

    def min_seconds(self, rows: int, bandwidth: float, rate: float) -> float:
        """Return a lower bound for a batch: matrix products of images and prompt at *rate* (FLOP/s), then for each new
        token one pass of weights and KV cache through memory at *bandwidth* (bytes/s), or its matrix products if those
        take longer."""
        parts = self._model.model
        text = sum(weight.numel() for weight in parts.language_model.layers.parameters())
        tower = sum(weight.numel() for weight in parts.vision_tower.parameters())
        layers, width = self._shape.text[2], self._shape.text[0]
        size = self._model.dtype.itemsize
        cache = 2 * layers * width * size * (self._shape.prompt_tokens + _NEW / 2) * rows
        step = max((text * size + cache) / bandwidth, 2 * text * rows / rate)
        prefill = 2 * rows * (text * self._shape.prompt_tokens + tower * (self._shape.image_tokens + 1))
        return prefill / rate + (_NEW - 1) * step


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds of *work*, synchronizing the device before and after."""

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def device_limits(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Measure the device's memory bandwidth (bytes/s, reads and writes) and matrix product rate (FLOP/s)."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    block = torch.randn((1 << 30 if device.type == "cuda" else 1 << 27) // 4, device=device)
    copy = torch.empty_like(block)
    rates = [2 * size**3 / timed(device, lambda: a @ b) for _ in range(8)]
    copies = [2 * block.nbytes / timed(device, lambda: copy.copy_(block)) for _ in range(8)]
    return max(copies), max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llava", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to this file")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, for medians (default: 3)")
    parser.add_argument(
        "--batch", type=int, default=_MAX_BATCH, help="our batch size, halved until it fits (default: 512)"
    )
    parser.add_argument("--batches", type=int, default=4, help="our batches per round (default: 4)")
    arguments = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    device, shape = torch.device("cuda" if has_gpu else "cpu"), _SEVEN if has_gpu else _TINY
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    bandwidth, rate = device_limits(device, getattr(torch, shape.dtype))
    with tempfile.TemporaryDirectory(prefix="vecap-llava-") as name:
        folder = Path(name)
        checkpoint = write_checkpoint(shape, device, folder / "model")
        vlm = load(checkpoint, shape, arguments.batch, threads, device)
        Tar(folder, arguments.batch).caption(vlm)  # finds what fits
        batch = vlm.generator.rows
        tar = Tar(folder, batch * arguments.batches)
        plain = Plain(vlm, shape)
        plain.seconds(1)
        max_batch = plain.largest_batch()

        def ours() -> float:
            start = time.perf_counter()
            written = tar.caption(vlm)
            assert {text.prompt_tokens for text in written} == {shape.prompt_tokens}
            return len(written) / (time.perf_counter() - start)

        ours()
        runs, large = alternate(arguments.rounds, ours, lambda: max_batch / plain.seconds(max_batch))
        more_runs, single = alternate(arguments.rounds, ours, lambda: 1 / plain.seconds(1))
        tokens = sum(text.tokens for text in tar.caption(vlm)) / (batch * arguments.batches)
    name = torch.cuda.get_device_name() if has_gpu else f"no GPU: {machine()}"
    conditions = (
        f"{shape.name} with random weights, {shape.dtype}, {shape.image_tokens} image tokens and {_WORDS} of the "
        f"prompt, at max_batch {_NEW} new; ours: JPEGs to texts, batches of {batch}; limit: {bandwidth:.3g} bytes/s "
        f"and {rate:.3g} FLOP/s measured; torch {torch.__version__}, {name}, medians of {arguments.rounds} rounds"
    )
    speed = median([*runs, *more_runs])
    limit = max_batch / plain.min_seconds(max_batch, bandwidth, rate)
    sides = (("generate at batch 1", median(single)), (f"generate at batch {max_batch}", median(large)))
    measures = []
    for name, theirs in sides:
        measures.append(Measure(f"compared with {name}", "images/s", speed, theirs, limit, conditions))
        measures.append(
            Measure(f"compared with {name}", "tokens/s", tokens * speed, _NEW * theirs, _NEW * limit, conditions)
        )
    report(measures, arguments.json)


if __name__ == "__main__":
    main()
