"""The LLM fuses AltText and VeC into one caption (VeCap). Supports causal and seq2seq models of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from vecap_tasks.config import ModelConfig
from vecap_tasks.core.models import Checkpoint
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, OnFinished, Sampling, failed, ignore_finished
from vecap_tasks.rewrite.backends.transformers import (
    LOAD_ERRORS,
    Generator,
    Inputs,
    cannot_load,
    load_weights,
    padded_length,
)
from vecap_tasks.rewrite.prompt import Prompt, Texts
from vecap_tasks.rewrite.sanitize import clean

LlmInput = tuple[Texts, Sampling]


class Llm:
    """A language model with its prompt. Raises PermanentError if the checkpoint cannot be loaded."""

    def __init__(self, checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt, max_alttext_chars: int) -> None:
        self._generator = _load(checkpoint, settings)
        self._tokenizer = self._generator.tokenizer
        self._special_tokens = self._generator.special_tokens
        self._template: str | None = self._tokenizer.chat_template or prompt.template
        self._prompt = prompt
        self._max_chars = max_alttext_chars
        config = self._generator.model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or self._tokenizer.model_max_length
        self._max_prompt_tokens = int(context) - (0 if self._generator.is_encoder_decoder else settings.max_new_tokens)

    def fuse(self, requests: Sequence[LlmInput], on_finished: OnFinished = ignore_finished) -> list[GeneratedText]:
        """Generate a text for each (AltText, VeC), in batches of equal padded prompt length.

        A text has the problem `prompt_too_long` if no prompt fits the model. *on_finished* gets each batch.
        """
        prompts = {texts: self.encode(*texts) for texts, _ in requests}
        results = [failed("prompt_too_long")] * len(requests)
        size = self._generator.settings.batch_size
        # A long VeC needs a long answer, and a batch runs until its longest answer ends.
        ready = sorted(
            (padded_length(len(ids)), len(texts[1]), texts, sampling.variant, index)
            for index, (texts, sampling) in enumerate(requests)
            if (ids := prompts[texts])
        )
        for _, group in groupby(ready, key=lambda item: item[0]):
            indices = [index for *_, index in group]
            for chunk in (indices[start : start + size] for start in range(0, len(indices), size)):
                batch = [(prompts[requests[index][0]], requests[index][1]) for index in chunk]
                texts = dict(zip(chunk, self._generator.generate(batch, self._prepare), strict=True))
                on_finished(texts)
                for index, text in texts.items():
                    results[index] = text
        return results

    def encode(self, alttext: str, vec: str) -> list[int]:
        """Return the token ids of the prompt, with the AltText cut to fit; empty if the VeC does not fit."""
        alttext = clean(alttext, self._special_tokens, self._max_chars)
        vec = clean(vec, self._special_tokens, self._max_chars)
        while True:
            ids = self._tokens(self._prompt.fill(alttext=alttext, vec=vec))
            if len(ids) <= self._max_prompt_tokens:
                return ids
            if not alttext:
                return []
            alttext = clean(alttext, (), len(alttext) // 2)

    def _tokens(self, content: str) -> list[int]:
        if self._template is None:  # no chat model: T5, a base model
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
        length = padded_length(max(map(len, prompts)))
        ids = torch.full((len(prompts), length), self._tokenizer.pad_token_id)
        mask = torch.zeros((len(prompts), length), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            start = 0 if self._tokenizer.padding_side == "right" else length - len(prompt)
            ids[row, start : start + len(prompt)] = torch.tensor(prompt)
            mask[row, start : start + len(prompt)] = 1
        return {"input_ids": ids, "attention_mask": mask}


@lru_cache(maxsize=1)
def _load(checkpoint: Checkpoint, settings: ModelConfig) -> Generator:
    """Load model and tokenizer once per process and share them between prompts."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        return Generator(load_weights(kind, checkpoint, settings, "rewrite.llm"), tokenizer, settings)
    except LOAD_ERRORS as error:
        raise cannot_load(checkpoint, error) from error


@lru_cache(maxsize=2)
def load_llm(checkpoint: Checkpoint, settings: ModelConfig, prompt: Prompt, max_alttext_chars: int) -> Llm:
    """Return the model with *prompt*, cached per process."""
    return Llm(checkpoint, settings, prompt, max_alttext_chars)
