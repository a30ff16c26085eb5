"""The CLIP text tokenizer, built from any fast tokenizer, and a store of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vecap_tasks.config import ClipConfig, Config
from vecap_tasks.core.models import tokenizer_path
from vecap_tasks.errors import ConfigError, load_problem

_BEGIN, _END, _PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
_LEGACY_EOS_ID = 2  # an EOS id with which transformers' CLIP pools a text at its largest token id
Tokens = NDArray[np.int32]  # [n, tokens]


def load_tokenizer(config: Config) -> PreTrainedTokenizerFast:
    """Return the configured tokenizer as a CLIP tokenizer; that of a pretrained text tower keeps its special tokens.

    Raises ConfigError if it cannot be loaded.
    """
    location = tokenizer_path(config)
    try:
        source = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"train.model.tokenizer: cannot load {location}: {load_problem(error)}") from error
    if not isinstance(source, PreTrainedTokenizerFast):
        raise ConfigError(f"train.model.tokenizer: {location} is not a fast tokenizer; convert it to tokenizer.json")
    if config.training.model.text_init_from is not None:
        return pretrained_tokenizer(source, config.training.model)
    return clip_tokenizer(source, config.training.model)


def pretrained_tokenizer(source: PreTrainedTokenizerFast, model: ClipConfig) -> PreTrainedTokenizerFast:
    """Return *source* with its own special tokens, `context` tokens at most, and padding on the right.

    Raises ConfigError if it has no padding token.
    """
    if source.pad_token_id is None:
        raise ConfigError("train.model.tokenizer has no padding token; use the tokenizer of text_init_from")
    backend = source.backend_tokenizer
    _prepare(backend, model)
    names = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: token for name in names if (token := getattr(source, name)) is not None},
        model_max_length=model.context,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _prepare(backend: Any, model: ClipConfig) -> None:
    backend.no_padding()
    backend.no_truncation()
    if model.lowercase:
        steps = [normalizers.Lowercase()]
        if backend.normalizer is not None:
            steps.append(backend.normalizer)
        backend.normalizer = normalizers.Sequence(steps)


def clip_tokenizer(source: PreTrainedTokenizerFast, model: ClipConfig) -> PreTrainedTokenizerFast:
    """Return *source* as CLIP's tokenizer: text -> BOS, at most `context - 2` tokens, EOS, padding on the right.

    `begin_token: false` omits BOS and allows one more token. The padding token may equal EOS, as in OpenAI's tokenizer,
    because CLIP pools at the first EOS.
    """
    begin = source.bos_token or _BEGIN
    end = source.eos_token or _END
    if source.convert_tokens_to_ids(end) == _LEGACY_EOS_ID:
        end = _END
    special_tokens = {"eos_token": end, "pad_token": source.pad_token or _PAD}
    if model.begin_token:
        special_tokens["bos_token"] = begin
    source.add_special_tokens(special_tokens)
    backend = source.backend_tokenizer
    _prepare(backend, model)
    template = [begin, end] if model.begin_token else [end]
    backend.post_processor = TemplateProcessing(
        single=f"{begin}:0 $A:0 {end}:0" if model.begin_token else f"$A:0 {end}:0",
        special_tokens=[(token, backend.token_to_id(token)) for token in template],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin if model.begin_token else None,
        eos_token=end,
        pad_token=source.pad_token,
        unk_token=source.unk_token,
        model_max_length=model.context,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


class TokenizedTexts:
    """Token ids of texts by index, truncated to the tokenizer's context length."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._pad = int(tokenizer.pad_token_id)
        self._special = tokenizer.num_special_tokens_to_add()  # BOS and EOS
        self._flat: list[NDArray[np.int32]] = []
        self._sizes: list[NDArray[np.int32]] = []
        self._ids: NDArray[np.int32] | None = None
        self._starts = np.zeros(1, np.int64)

    def add(self, texts: Sequence[str]) -> None:
        """Tokenize and append *texts*."""
        if not texts:
            return
        token_ids = self._tokenizer(list(texts), truncation=True, return_attention_mask=False)["input_ids"]
        self._flat.append(np.fromiter((token for ids in token_ids for token in ids), np.int32))
        self._sizes.append(np.fromiter((len(ids) for ids in token_ids), np.int32, len(token_ids)))
        self._ids = None

    def take(self, numbers: NDArray[np.int64], limits: NDArray[np.int64] | None = None) -> Tokens:
        """Return the token ids of the texts *numbers*: int32 [n, longest], padded on the right.

        Of a text with a limit above 0, only so many tokens are left, without BOS and EOS.
        """
        if self._ids is None:
            self._ids = np.concatenate(self._flat)
            self._starts = np.concatenate([[0], np.cumsum(np.concatenate(self._sizes), dtype=np.int64)])
            self._flat, self._sizes = [self._ids], [np.diff(self._starts).astype(np.int32)]
        starts, stops = self._starts[numbers], self._starts[numbers + 1]
        sizes = stops - starts
        if limits is not None:
            sizes = np.where(limits > 0, np.minimum(sizes, limits + self._special), sizes)
        positions = starts[:, None] + np.arange(sizes.max())
        mask = positions < (starts + sizes)[:, None]
        tokens = np.where(mask, self._ids[np.where(mask, positions, 0)], np.int32(self._pad))
        tokens[np.arange(len(numbers)), sizes - 1] = self._ids[stops - 1]  # the last one is EOS
        return tokens
