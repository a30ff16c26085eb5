"""The VLM: it looks at images and writes what it sees (VeC). LLaVA and whatever else transformers loads like it."""

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
from vecap_tasks.rewrite.accepted_rows import DECODERS, ImageInput, prefetch
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, OnFinished, Sampling, failed, ignore_finished
from vecap_tasks.rewrite.backends.transformers import (
    LENGTH_STEP,
    LOAD_ERRORS,
    Generator,
    Inputs,
    cannot_load,
    load_weights,
    padded,
)
from vecap_tasks.rewrite.prompt import Prompt

_VIDEO = "video_processor"
_PARTS = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}


def load_processor(folder: Path) -> Any:
    """Load the processor by transformers' Auto classes. Raises what those raise for a folder that has none."""
    kind = PROCESSOR_MAPPING.get(
        type(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)), None
    )
    attributes = kind.get_attributes() if hasattr(kind, "get_attributes") else []
    if kind is None or is_torchvision_available() or not {_VIDEO} < set(attributes) <= {_VIDEO, *_PARTS}:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    parts = [
        None if name == _VIDEO else _PARTS[name].from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        for name in attributes
    ]
    settings, more = kind.get_processor_dict(folder, local_files_only=True)
    return _without_videos(kind).from_args_and_dict(parts, settings, **more)


def _without_videos(kind: Any) -> Any:
    class Pictures(kind):  # type: ignore[misc]  # transformers has no types
        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> Any:
            return None if argument_name == _VIDEO else super().check_argument_for_proper_class(argument_name, argument)

        @classmethod
        def get_attributes(cls) -> list[str]:
            """Return what *kind* has: transformers reads it off a signature, which a subclass hides."""
            names: list[str] = kind.get_attributes()
            return names

    Pictures.__name__ = kind.__name__  # by which processors tell their settings
    return Pictures


_HELD = 512  # pictures that wait for others whose prompts are as long as theirs
_SHAPES = ((64, 64), (128, 256), (256, 128), (512, 384))  # pictures that tell whether the length follows the shape
_COLORS = ("white", "black", "red", "blue")

VlmInput = tuple[ImageInput, Sampling]
Batch = tuple[tuple[int, ...], list[tuple[Image.Image, Sampling]], Inputs]  # with the places of its rows


class Vlm:
    """A vision-language model with the prompt it is asked. Raises PermanentError where the folder is none."""

    def __init__(self, checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt) -> None:
        try:
            self._processor = load_processor(checkpoint.folder)
            model = load_weights(AutoModelForImageTextToText, checkpoint, settings, "rewrite.vlm")
            self.generator = Generator(model, self._processor.tokenizer, settings)
            # On a CPU the model has its threads, and others would only get in their way.
            self.decoders = 1 if model.device.type == "cpu" else DECODERS
            self._lock = Lock()  # a tokenizer serves one thread: batches are prepared ahead, and halved ones here
            self._lengths: dict[tuple[int, int], int] = {}
            self._one_length = True
            self._words: Inputs = {}  # what a row has beside its picture, where that is the same for every picture
            self._ask(prompt)
            self._one_length = len({self._length(shape) for shape in _SHAPES}) == 1
            if self._one_length:
                self._words = self._same_words()
        except LOAD_ERRORS as error:
            raise cannot_load(checkpoint, error) from error

    def _ask(self, prompt: Prompt) -> None:
        """Settle the text that stands beside each picture, and whether the tokenizer begins it."""
        template = getattr(self._processor, "chat_template", None) or prompt.template
        if template is None:
            self._text, self._adds_begin = prompt.text, True
            self._text = f"{self._image_mark()}{prompt.text}"
            return
        content = [{"type": "image"}, {"type": "text", "text": prompt.text}]
        self._text = self._processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
        # LLaVA's template leaves the token that begins a text to the tokenizer, others write it themselves.
        begin = self._processor.tokenizer.bos_token
        self._adds_begin = begin is None or not self._text.startswith(begin)

    def _image_mark(self) -> str:
        """Return what marks the picture's place in a plain prompt; BLIP-2's processor and its like put it in."""
        mark = getattr(self._processor, "image_token", None)
        if mark is None:
            return ""
        mark = str(mark)
        number = self._processor.tokenizer.convert_tokens_to_ids(mark)
        try:
            plain = self._prepare([Image.new("RGB", _SHAPES[0])])["input_ids"]
        except ValueError:
            return mark  # a processor that counts its marks
        return "" if (plain == number).any() else mark

    def describe(self, asked: Iterable[VlmInput], finished: OnFinished = ignore_finished) -> list[GeneratedText]:
        """Say what each picture shows, in batches of prompts of one length that are prepared ahead.

        A text has the problem `unreadable_image` where there is no picture. *finished* is told of each batch.
        """
        written: dict[int, GeneratedText] = {}
        for places, batch, inputs in prefetch(self._batches(asked)):
            texts = self.generator.write(batch, self._prepare, inputs) if batch else [failed("unreadable_image")]
            batch_written = dict(zip(places, texts, strict=True))
            finished(batch_written)
            written |= batch_written
        return [written[place] for place in range(len(written))]

    def _batches(self, asked: Iterable[VlmInput]) -> Iterator[Batch]:
        waiting: defaultdict[int, list[tuple[int, tuple[Image.Image, Sampling]]]] = defaultdict(list)
        for place, (seen, draw) in enumerate(asked):
            if seen.image is None:
                yield (place,), [], {}
                continue
            length = 0 if self._one_length else padded(self._length(seen.image.size))
            waiting[length].append((place, (seen.image, draw)))
            if len(waiting[length]) >= self.generator.rows:
                yield self._batch(waiting.pop(length))
            elif sum(map(len, waiting.values())) > _HELD:
                yield self._batch(waiting.pop(max(waiting, key=lambda length: len(waiting[length]))))
        for length in sorted(waiting):
            yield self._batch(waiting[length])

    def _batch(self, items: list[tuple[int, tuple[Image.Image, Sampling]]]) -> Batch:
        batch = [item for _, item in items]
        inputs = self._prepare([image for image, _ in self.generator.filled(batch)])
        return tuple(place for place, _ in items), batch, inputs

    def _same_words(self) -> Inputs:
        """Return what a row has beside its picture, [1, …] each; empty where that follows from the picture.

        A processor writes out and reads again, for each row, the marks of some hundred patches.
        """
        images = [Image.new("RGB", shape, color) for shape, color in zip(_SHAPES, _COLORS, strict=True)]
        whole, shown = self._prepare(images), self._pictures(images)
        words = {name: value[:1] for name, value in whole.items() if name not in shown}
        made = shown | _repeated(words, len(images))
        alike = made.keys() == whole.keys() and all(torch.equal(made[name], value) for name, value in whole.items())
        return words if alike else {}

    def _pictures(self, images: Sequence[Image.Image]) -> Inputs:
        return dict(self._processor.image_processor([[image] for image in images], return_tensors="pt"))

    def _prepare(self, images: Sequence[Image.Image]) -> Inputs:
        with self._lock:
            if self._words:
                return self._pictures(images) | _repeated(self._words, len(images))
            return dict(
                self._processor(
                    text=[self._text] * len(images),
                    images=[[image] for image in images],
                    padding=True,
                    pad_to_multiple_of=None if self._one_length else LENGTH_STEP,
                    add_special_tokens=self._adds_begin,
                    return_tensors="pt",
                )
            )

    def _length(self, shape: tuple[int, int]) -> int:
        """Return how many tokens a prompt with a picture of this width and height has."""
        if shape not in self._lengths:
            self._lengths[shape] = int(self._prepare([Image.new("RGB", shape)])["attention_mask"].sum())
        return self._lengths[shape]


def _repeated(row: Inputs, count: int) -> Inputs:
    return {name: value.repeat(count, *(1 for _ in value.shape[1:])) for name, value in row.items()}


@lru_cache(maxsize=1)
def load_vlm(checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt) -> Vlm:
    """Load the model, once in a process however many shards it does."""
    return Vlm(checkpoint, settings, prompt)
