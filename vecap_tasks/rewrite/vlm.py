"""The VLM describes images (VeC). Supports LLaVA and the other image-text-to-text models of transformers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from PIL import Image
from transformers import (
    PROCESSOR_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.utils import is_torchvision_available

from vecap_tasks.config import ModelConfig
from vecap_tasks.core.models import Checkpoint
from vecap_tasks.rewrite.accepted_rows import DECODE_THREADS, ImageInput, prefetch
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, OnFinished, Sampling, failed, ignore_finished
from vecap_tasks.rewrite.backends.transformers import (
    LENGTH_STEP,
    LOAD_ERRORS,
    Generator,
    Inputs,
    cannot_load,
    load_weights,
    padded_length,
)
from vecap_tasks.rewrite.prompt import Prompt

_VIDEO = "video_processor"
_PARTS = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}


def load_processor(folder: Path) -> Any:
    """Load the processor of a checkpoint; without torchvision, skip its video processor.

    Raises one of LOAD_ERRORS if *folder* has no processor.
    """
    processor_class = PROCESSOR_MAPPING.get(
        type(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)), None
    )
    attributes = processor_class.get_attributes() if hasattr(processor_class, "get_attributes") else []
    if processor_class is None or is_torchvision_available() or not {_VIDEO} < set(attributes) <= {_VIDEO, *_PARTS}:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    parts = [
        None if name == _VIDEO else _PARTS[name].from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        for name in attributes
    ]
    settings, more = processor_class.get_processor_dict(folder, local_files_only=True)
    return _without_video_processor(processor_class).from_args_and_dict(parts, settings, **more)


def _without_video_processor(processor_class: Any) -> Any:
    class ImageProcessor(processor_class):  # type: ignore[misc]  # transformers has no types
        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> Any:
            return None if argument_name == _VIDEO else super().check_argument_for_proper_class(argument_name, argument)

        @classmethod
        def get_attributes(cls) -> list[str]:
            """Return the base class's attributes; transformers reads them from a signature that a subclass hides."""
            names: list[str] = processor_class.get_attributes()
            return names

    ImageProcessor.__name__ = processor_class.__name__  # processors identify their settings by class name
    return ImageProcessor


_MAX_WAITING = 512  # images that wait for others with the same prompt length
_PROBE_SIZES = ((64, 64), (128, 256), (256, 128), (512, 384))  # to test whether the prompt length depends on the size
_PROBE_COLORS = ("white", "black", "red", "blue")

VlmInput = tuple[ImageInput, Sampling]
Batch = tuple[tuple[int, ...], list[tuple[Image.Image, Sampling]], Inputs]  # row indices, rows, model inputs


class Vlm:
    """A vision-language model with its prompt. Raises PermanentError if the checkpoint cannot be loaded."""

    def __init__(self, checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt) -> None:
        try:
            self._processor = load_processor(checkpoint.folder)
            model = load_weights(AutoModelForImageTextToText, checkpoint, settings, "rewrite.vlm")
            self.generator = Generator(model, self._processor.tokenizer, settings)
            # On a CPU the model already uses all threads.
            self.decode_threads = 1 if model.device.type == "cpu" else DECODE_THREADS
            self._lock = Lock()  # tokenizers are not thread-safe; batches are prepared in another thread
            self._lengths: dict[tuple[int, int], int] = {}
            self._fixed_length = True
            self._text_inputs: Inputs = {}  # the inputs other than pixels, if they are equal for all images
            self._set_prompt(prompt)
            self._fixed_length = len({self._length(shape) for shape in _PROBE_SIZES}) == 1
            if self._fixed_length:
                self._text_inputs = self._shared_text_inputs()
        except LOAD_ERRORS as error:
            raise cannot_load(checkpoint, error) from error

    def _set_prompt(self, prompt: Prompt) -> None:
        """Set the text of the prompt and whether the tokenizer adds the begin token."""
        template = getattr(self._processor, "chat_template", None) or prompt.template
        if template is None:
            self._text, self._adds_begin = prompt.text, True
            self._text = f"{self._image_placeholder()}{prompt.text}"
            return
        content = [{"type": "image"}, {"type": "text", "text": prompt.text}]
        self._text = self._processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
        # LLaVA's template leaves the begin token to the tokenizer; other templates contain it.
        begin = self._processor.tokenizer.bos_token
        self._adds_begin = begin is None or not self._text.startswith(begin)

    def _image_placeholder(self) -> str:
        """Return the image token of a prompt without a template; "" if the processor inserts it, as BLIP-2's does."""
        token = getattr(self._processor, "image_token", None)
        if token is None:
            return ""
        token = str(token)
        token_id = self._processor.tokenizer.convert_tokens_to_ids(token)
        try:
            input_ids = self._prepare([Image.new("RGB", _PROBE_SIZES[0])])["input_ids"]
        except ValueError:
            return token  # the processor requires an image token in the text
        return "" if (input_ids == token_id).any() else token

    def describe(self, requests: Iterable[VlmInput], on_finished: OnFinished = ignore_finished) -> list[GeneratedText]:
        """Describe each image, in batches of equal prompt length that are prepared ahead.

        A text has the problem `unreadable_image` if there is no image. *on_finished* gets each batch.
        """
        results: dict[int, GeneratedText] = {}
        for indices, batch, inputs in prefetch(self._batches(requests)):
            texts = self.generator.generate(batch, self._prepare, inputs) if batch else [failed("unreadable_image")]
            texts_by_index = dict(zip(indices, texts, strict=True))
            on_finished(texts_by_index)
            results |= texts_by_index
        return [results[index] for index in range(len(results))]

    def _batches(self, requests: Iterable[VlmInput]) -> Iterator[Batch]:
        waiting: defaultdict[int, list[tuple[int, tuple[Image.Image, Sampling]]]] = defaultdict(list)
        for index, (item, sampling) in enumerate(requests):
            if item.image is None:
                yield (index,), [], {}
                continue
            length = 0 if self._fixed_length else padded_length(self._length(item.image.size))
            waiting[length].append((index, (item.image, sampling)))
            if len(waiting[length]) >= self.generator.rows:
                yield self._batch(waiting.pop(length))
            elif sum(map(len, waiting.values())) > _MAX_WAITING:
                yield self._batch(waiting.pop(max(waiting, key=lambda length: len(waiting[length]))))
        for length in sorted(waiting):
            yield self._batch(waiting[length])

    def _batch(self, items: list[tuple[int, tuple[Image.Image, Sampling]]]) -> Batch:
        batch = [item for _, item in items]
        inputs = self._prepare([image for image, _ in self.generator.fill(batch)])
        return tuple(index for index, _ in items), batch, inputs

    def _shared_text_inputs(self) -> Inputs:
        """Return the inputs other than pixels, [1, …] each; empty if they depend on the image.

        This avoids expanding and tokenizing hundreds of image tokens for each row.
        """
        images = [Image.new("RGB", shape, color) for shape, color in zip(_PROBE_SIZES, _PROBE_COLORS, strict=True)]
        expected, pixels = self._prepare(images), self._pixel_inputs(images)
        text_inputs = {name: value[:1] for name, value in expected.items() if name not in pixels}
        combined = pixels | _repeat_rows(text_inputs, len(images))
        equal = combined.keys() == expected.keys() and all(
            torch.equal(combined[name], value) for name, value in expected.items()
        )
        return text_inputs if equal else {}

    def _pixel_inputs(self, images: Sequence[Image.Image]) -> Inputs:
        return dict(self._processor.image_processor([[image] for image in images], return_tensors="pt"))

    def _prepare(self, images: Sequence[Image.Image]) -> Inputs:
        with self._lock:
            if self._text_inputs:
                return self._pixel_inputs(images) | _repeat_rows(self._text_inputs, len(images))
            return dict(
                self._processor(
                    text=[self._text] * len(images),
                    images=[[image] for image in images],
                    padding=True,
                    pad_to_multiple_of=None if self._fixed_length else LENGTH_STEP,
                    add_special_tokens=self._adds_begin,
                    return_tensors="pt",
                )
            )

    def _length(self, shape: tuple[int, int]) -> int:
        """Return the tokens of a prompt with an image of this (width, height)."""
        if shape not in self._lengths:
            self._lengths[shape] = int(self._prepare([Image.new("RGB", shape)])["attention_mask"].sum())
        return self._lengths[shape]


def _repeat_rows(row: Inputs, count: int) -> Inputs:
    return {name: value.repeat(count, *(1 for _ in value.shape[1:])) for name, value in row.items()}


@lru_cache(maxsize=1)
def load_vlm(checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt) -> Vlm:
    """Load the model, cached per process."""
    return Vlm(checkpoint, settings, prompt)
