"""The LLM: it fuses AltText and VeC into one caption (VeCap). Vicuna, T5 and whatever else transformers loads so."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from vecap_tasks.config import ModelConfig
from vecap_tasks.core.models import Checkpoint
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, OnFinished, Sampling, failed, ignore_finished
from vecap_tasks.rewrite.backends.transformers import LOAD_ERRORS, Generator, Inputs, cannot_load, load_weights, padded
from vecap_tasks.rewrite.prompt import Prompt, Texts, clean

LlmInput = tuple[Texts, Sampling]


class Llm:
    """A language model with the prompt it is asked. Raises PermanentError where the folder is none."""

    def __init__(self, checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt, max_alttext_chars: int) -> None:
        self._generator = _load(checkpoint, settings)
        self._tokenizer = self._generator.tokenizer
        self._special = self._generator.special_tokens
        self._template: str | None = self._tokenizer.chat_template or prompt.template
        self._prompt = prompt
        self._limit = max_alttext_chars
        config = self._generator.model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or self._tokenizer.model_max_length
        self._room = int(context) - (0 if self._generator.answers_apart else settings.max_new_tokens)

    def fuse(self, asked: Sequence[LlmInput], finished: OnFinished = ignore_finished) -> list[GeneratedText]:
        """Write a text about each (AltText, VeC), in batches of prompts of one length.

        A text has the problem `prompt_too_long` where no prompt with it is short enough for the model. *finished* is
        told of each batch.
        """
        prompts = {texts: self.encode(*texts) for texts, _ in asked}
        written = [failed("prompt_too_long")] * len(asked)
        size = self._generator.settings.batch_size
        # The longer the VeC, the longer the answer, and a batch is done when its longest answer is.
        ready = sorted(
            (padded(len(ids)), len(texts[1]), texts, draw.variant, place)
            for place, (texts, draw) in enumerate(asked)
            if (ids := prompts[texts])
        )
        for _, group in groupby(ready, key=lambda item: item[0]):
            places = [place for *_, place in group]
            for some in (places[start : start + size] for start in range(0, len(places), size)):
                batch = [(prompts[asked[place][0]], asked[place][1]) for place in some]
                texts = dict(zip(some, self._generator.write(batch, self._prepare), strict=True))
                finished(texts)
                for place, text in texts.items():
                    written[place] = text
        return written

    def encode(self, alttext: str, vec: str) -> list[int]:
        """Return the prompt's tokens, the AltText cut until they leave room for an answer; empty where none do."""
        alttext = clean(alttext, self._special, self._limit)
        vec = clean(vec, self._special, self._limit)
        while True:
            ids = self._tokens(self._prompt.fill(alttext=alttext, vec=vec))
            if len(ids) <= self._room:
                return ids
            if not alttext:
                return []
            alttext = clean(alttext, (), len(alttext) // 2)

    def _tokens(self, content: str) -> list[int]:
        if self._template is None:  # a model that was never taught to converse: T5, a base model
            plain: list[int] = self._tokenizer(content)["input_ids"]
            return plain
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._template,
            add_generation_prompt=True,
            tokenize=False,
        )
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _prepare(self, prompts: Sequence[list[int]]) -> Inputs:
        length = padded(max(map(len, prompts)))
        ids = torch.full((len(prompts), length), self._tokenizer.pad_token_id)
        mask = torch.zeros((len(prompts), length), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            start = 0 if self._tokenizer.padding_side == "right" else length - len(prompt)
            ids[row, start : start + len(prompt)] = torch.tensor(prompt)
            mask[row, start : start + len(prompt)] = 1
        return {"input_ids": ids, "attention_mask": mask}


@lru_cache(maxsize=1)
def _load(checkpoint: Checkpoint, settings: ModelConfig) -> Generator:
    """Load model and tokenizer, once in a process, for however many prompts."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        return Generator(load_weights(kind, checkpoint, settings, "rewrite.llm"), tokenizer, settings)
    except LOAD_ERRORS as error:
        raise cannot_load(checkpoint, error) from error


@lru_cache(maxsize=2)
def load_llm(checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt, max_alttext_chars: int) -> Llm:
    """Take the model, with a prompt, for all shards that a process does."""
    return Llm(checkpoint, settings, prompt, max_alttext_chars)
