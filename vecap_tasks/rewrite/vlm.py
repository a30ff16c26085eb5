"""The VLM: it looks at pictures and says what it sees (VeC). LLaVA and whatever else transformers loads like it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from transformers import AutoModelForImageTextToText, AutoProcessor

from vecap_tasks.config import ModelConfig
from vecap_tasks.errors import VecapError
from vecap_tasks.rewrite.checkpoint import Checkpoint
from vecap_tasks.rewrite.generation import LOAD_ERRORS, Generator, Written, batch_rows, cannot_load, load_weights
from vecap_tasks.rewrite.images import Row, Seen, ahead
from vecap_tasks.rewrite.prompt import Prompt

if TYPE_CHECKING:
    import torch


class Vlm:
    """A vision-language model with the prompt it is asked. Raises VecapError where the folder is none."""

    def __init__(self, checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt) -> None:
        try:
            self._processor = AutoProcessor.from_pretrained(checkpoint.folder, local_files_only=True)
            model = load_weights(AutoModelForImageTextToText, checkpoint, settings)
        except LOAD_ERRORS as error:
            raise cannot_load(checkpoint, error) from error
        template = prompt.template or getattr(self._processor, "chat_template", None)
        if template is None:
            raise VecapError(
                f"model {checkpoint.name}: {checkpoint.folder} has no chat template for images; "
                f"put one beside the prompt, as {prompt.id}.jinja"
            )
        self._generator = Generator(model, self._processor.tokenizer, settings)
        content = [{"type": "image"}, {"type": "text", "text": prompt.text}]
        self._text: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True
        )
        # LLaVA's template leaves the token that begins a text to the tokenizer, others write it themselves.
        begin = self._processor.tokenizer.bos_token
        self._adds_begin = begin is None or not self._text.startswith(begin)

    def describe(self, seen: Iterator[Seen]) -> Iterator[tuple[Row, Written | None]]:
        """Say what each picture shows, in batches; None where there is no picture. Pictures are prepared ahead."""
        for batch, inputs in ahead(self._batches(seen)):
            shown = [one for one in batch if one.image is not None]
            texts = iter(self._generator.write(inputs, len(shown)) if inputs else ())
            for one in batch:
                yield one.row, next(texts) if one.image is not None else None

    def _batches(self, seen: Iterator[Seen]) -> Iterator[tuple[list[Seen], dict[str, torch.Tensor]]]:
        size = self._generator.settings.batch_size
        while batch := list(islice(seen, size)):
            images = [one.image for one in batch if one.image is not None]
            if not images:
                yield batch, {}
                continue
            images += images[-1:] * (batch_rows(len(images), size) - len(images))
            yield (
                batch,
                dict(
                    self._processor(
                        text=[self._text] * len(images),
                        images=images,
                        padding=True,
                        add_special_tokens=self._adds_begin,
                        return_tensors="pt",
                    )
                ),
            )


@lru_cache(maxsize=1)
def load_vlm(checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt) -> Vlm:
    """Load the model, once in a process however many shards it does."""
    return Vlm(checkpoint, settings, prompt)
