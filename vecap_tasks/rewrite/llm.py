"""The LLM: it fuses AltText and VeC into one caption (VeCap). Vicuna and whatever else transformers loads like it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vecap_tasks.config import ModelConfig
from vecap_tasks.errors import VecapError
from vecap_tasks.rewrite.checkpoint import Checkpoint
from vecap_tasks.rewrite.generation import LOAD_ERRORS, Generator, Written, batch_rows, cannot_load, load_weights
from vecap_tasks.rewrite.prompt import Prompt, clean

_LENGTH_STEP = 16  # prompts are padded to a multiple of this many tokens, and batched with those of the same length


class Llm:
    """A language model with the prompt it is asked. Raises VecapError where the folder is none."""

    def __init__(self, checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt, max_alttext_chars: int) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
            model = load_weights(AutoModelForCausalLM, checkpoint, settings)
        except LOAD_ERRORS as error:
            raise cannot_load(checkpoint, error) from error
        template = prompt.template or self._tokenizer.chat_template
        if template is None:
            raise VecapError(
                f"model {checkpoint.name}: {checkpoint.folder} has no chat template; "
                f"put one beside the prompt, as {prompt.id}.jinja"
            )
        self._generator = Generator(model, self._tokenizer, settings)
        self._special = self._generator.special_tokens
        self._template: str = template
        self._prompt = prompt
        self._limit = max_alttext_chars
        context = getattr(model.config, "max_position_embeddings", None) or self._tokenizer.model_max_length
        self._room = int(context) - settings.max_new_tokens

    def fuse(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Written | None]:
        """Return the caption of every (AltText, VeC), None where no prompt with it is short enough for the model."""
        asked = {pair: self.encode(*pair) for pair in pairs}
        written: dict[tuple[str, str], Written | None] = {pair: None for pair, ids in asked.items() if not ids}
        size = self._generator.settings.batch_size
        # The longer the VeC, the longer the answer, and a batch is done when its longest answer is.
        ready = sorted((_padded(len(ids)), len(pair[1]), pair) for pair, ids in asked.items() if ids)
        for length, group in groupby(ready, key=lambda item: item[0]):
            same = [pair for _, _, pair in group]
            for batch in (same[start : start + size] for start in range(0, len(same), size)):
                inputs = self._pad([asked[pair] for pair in batch], length)
                written |= zip(batch, self._generator.write(inputs, len(batch)), strict=True)
        return written

    def encode(self, alttext: str, vec: str) -> list[int]:
        """Return the prompt's tokens, the AltText cut until they leave room for an answer; empty where none do."""
        alttext = clean(alttext, self._special, self._limit)
        vec = clean(vec, self._special, self._limit)
        while True:
            content = self._prompt.fill(alttext=alttext, vec=vec)
            text = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=False,
            )
            ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) <= self._room:
                return ids
            if not alttext:
                return []
            alttext = clean(alttext, (), len(alttext) // 2)

    def _pad(self, prompts: Sequence[list[int]], length: int) -> dict[str, torch.Tensor]:
        rows = batch_rows(len(prompts), self._generator.settings.batch_size)
        ids = torch.full((rows, length), self._tokenizer.pad_token_id)
        mask = torch.zeros((rows, length), dtype=torch.int64)
        for row in range(rows):
            prompt = prompts[min(row, len(prompts) - 1)]
            ids[row, length - len(prompt) :] = torch.tensor(prompt)
            mask[row, length - len(prompt) :] = 1
        return {"input_ids": ids, "attention_mask": mask}


def _padded(length: int) -> int:
    return -(-length // _LENGTH_STEP) * _LENGTH_STEP


@lru_cache(maxsize=1)
def load_llm(checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt, max_alttext_chars: int) -> Llm:
    """Load the model, once in a process however many shards it does."""
    return Llm(checkpoint, settings, prompt, max_alttext_chars)
