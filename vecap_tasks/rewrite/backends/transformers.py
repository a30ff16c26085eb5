"""Generation with transformers: model loading, batching, CPU kernels and decoding."""

from __future__ import annotations

import ctypes
import logging
import platform
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from vecap_tasks.config import ModelConfig
from vecap_tasks.core.models import Checkpoint, open_device
from vecap_tasks.errors import PermanentError, VecapError, load_problem
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)
T = TypeVar("T")
Inputs = dict[str, torch.Tensor]

LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError, SafetensorError)
LENGTH_STEP = 16  # prompts are padded to a multiple of this many tokens and batched by padded length
_ROW_STEP = 16  # batches are filled to a multiple of this many rows
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # mallopt parameters, from glibc's malloc.h
_MMAP_BYTES = 32 << 20  # the maximum of glibc
_TRIM_BYTES = 1 << 30
# SplitMix64 (Steele, Lea, Flood, 2014) with signed constants: torch multiplies modulo 2**64.
_INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_BITS = 23  # plus 0.5: fits a float32 without rounding up to 1

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class OneDnnLinear(nn.Linear):
    """A linear layer for inference that uses oneDNN for float32 on CPUs. It has no gradient."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return float [..., out] of float [..., in]."""
        if input.dtype != torch.float32 or input.device.type != "cpu":
            return super().forward(input)
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return output


def set_up_torch(model: nn.Module) -> None:
    """Set up *model* for CPU inference: oneDNN for its float32 linear layers, and no release of freed memory."""
    weight = next(model.parameters(), None)
    if weight is None or weight.device.type != "cpu":
        return
    keep_freed_memory()
    if not (platform.machine() in ("x86_64", "AMD64") and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return
    for part in model.modules():
        if type(part) is nn.Linear and part.weight.dtype == torch.float32:
            part.__class__ = OneDnnLinear


def keep_freed_memory() -> None:
    """Make malloc reuse freed blocks of up to 32 MiB instead of returning them to the system. Requires glibc.

    Generation allocates and frees the tensors of a batch dozens of times a second, and the system zeroes each new
    page. This overrides MALLOC_TRIM_THRESHOLD_, which `dask worker` sets to return all freed memory.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def cannot_load(checkpoint: Checkpoint, error: BaseException) -> PermanentError:
    return PermanentError(
        f"model {checkpoint.name} cannot be loaded from {checkpoint.folder}: {load_problem(error)}; "
        "check that the folder is complete and has a model of the right kind"
    )


def load_weights(kind: Any, checkpoint: Checkpoint, settings: ModelConfig, section: str) -> PreTrainedModel:
    """Load a model with the Auto class *kind*, ready to generate; *section* is the configuration section of *settings*.

    Raises PermanentError for corrupt, incomplete or incompatible files, and for a missing device.
    """
    torch.set_num_threads(settings.threads)
    device = open_device(f"{section}.device", settings.device)
    try:
        model, report = kind.from_pretrained(
            checkpoint.folder,
            dtype=getattr(torch, settings.dtype),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except LOAD_ERRORS as error:
        raise cannot_load(checkpoint, error) from error
    # transformers initializes missing weights randomly.
    missing = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    if missing:
        raise cannot_load(checkpoint, PermanentError(f"{len(missing)} weights are missing, such as {missing[0]}"))
    model.eval().to(device)
    set_up_torch(model)
    return model


def padded_length(length: int) -> int:
    """Return the length that a prompt of *length* tokens is padded to."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the special tokens of *tokenizer*, and its other added tokens that look like markup (`<think>`).

    Added tokens without a bracket or a bar are words, which data can contain.
    """
    added = tokenizer.added_tokens_decoder.values()
    marks = (str(token.content) for token in added if token.special or set(str(token.content)) & set("<>[]{}|｜"))
    return tuple(sorted({*tokenizer.all_special_tokens, *marks}))


class Generator:
    """A loaded model with its tokenizer; generates at most `max_new_tokens` tokens per row.

    `rows` is the number of rows per batch: `batch_size`, reduced after an out-of-memory error.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ModelConfig) -> None:
        defaults = model.generation_config
        ends = defaults.eos_token_id
        if ends is None:
            ends = tokenizer.eos_token_id
        ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        configured = [model, getattr(model, "language_model", None)]
        self.is_encoder_decoder = any(
            getattr(getattr(part, "config", None), "is_encoder_decoder", False) for part in configured
        )
        self._uses_static_cache = not self.is_encoder_decoder and model._supports_default_dynamic_cache()
        # Encoders count positions from the left, including padding.
        tokenizer.padding_side = "right" if self.is_encoder_decoder else "left"
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.rows = settings.batch_size
        self._ends = torch.tensor(ends, dtype=torch.int64)
        # A checkpoint's defaults can enable sampling, but captions must be reproducible.
        generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=ends or None,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            decoder_start_token_id=defaults.decoder_start_token_id,
        )
        for part in model.modules():  # BLIP-2 generates with a submodule
            if getattr(part, "generation_config", None) is not None:
                part.generation_config = generation_config

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The tokenizer's control tokens. Untrusted data must not contain any of them."""
        return control_tokens(self.tokenizer)

    def fill(self, batch: Sequence[T]) -> list[T]:
        """Return *batch* filled to a multiple of 16 rows, at most `rows`, by repeating its last item."""
        count = min(self.rows, -(-len(batch) // _ROW_STEP) * _ROW_STEP)
        return [*batch, *[batch[-1]] * (count - len(batch))]

    def generate(
        self,
        batch: Sequence[tuple[T, Sampling]],
        prepare: Callable[[Sequence[T]], Inputs],
        prepared: Inputs | None = None,
    ) -> list[GeneratedText]:
        """Generate a text for each of *batch*. *prepare* returns model inputs (`input_ids` int64 [rows, tokens], …).

        *prepared* are the inputs of the whole filled batch, if available. Halves this and later batches when memory
        runs out. Raises VecapError if a single row does not fit.
        """
        if len(batch) <= self.rows:
            try:
                rows = self.fill(batch)
                log.debug("%s: writing %d texts", self.settings.model, len(batch))
                if prepared is None or len(prepared["input_ids"]) != len(rows):  # `rows` was reduced since
                    prepared = prepare([item for item, _ in rows])
                return self._generate(prepared, [sampling for _, sampling in rows])[: len(batch)]
            except torch.OutOfMemoryError as error:
                if self.rows == 1 or len(batch) == 1:
                    raise VecapError(
                        f"{self.model.device} has too little memory for one row of {self.settings.model}; "
                        "use a smaller model, a smaller dtype or a larger device"
                    ) from error
                self.rows = -(-len(batch) // 2)
            log.warning("%s: out of memory with %d rows; continuing with %d", self.settings.model, len(rows), self.rows)
            prepared = None
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
        first, rest = batch[: self.rows], batch[self.rows :]
        return [*self.generate(first, prepare), *(self.generate(rest, prepare) if rest else ())]

    def _generate(self, inputs: Inputs, samplings: Sequence[Sampling]) -> list[GeneratedText]:
        device = self.model.device
        dtype = self.model.dtype
        moved: dict[str, Any] = {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in inputs.items()
        }
        sampler = [GumbelSampler(samplings, device)] if any(sampling.temperature for sampling in samplings) else None
        tokens = moved["input_ids"].shape[1]
        if self._uses_static_cache:
            moved["past_key_values"] = static_cache(self.model.config, tokens + self.settings.max_new_tokens)
        with torch.inference_mode():
            rows = self.model.generate(**moved, logits_processor=sampler)
        rows = rows[:, 1 if self.is_encoder_decoder else tokens :].cpu()
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        prompt_tokens = inputs["attention_mask"].sum(1).tolist()
        return [self._to_text(text, row, count) for text, row, count in zip(texts, rows, prompt_tokens, strict=True)]

    def _to_text(self, text: str, row: torch.Tensor, prompt_tokens: int) -> GeneratedText:
        ends = torch.isin(row, self._ends).nonzero()
        ended = len(ends) > 0
        return GeneratedText(" ".join(text.split()), int(ends[0]) + 1 if ended else len(row), ended, prompt_tokens)


class StaticCacheLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Preallocated keys and values of one layer, [rows, heads, tokens, width] each, for *capacity* tokens."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append tokens and return views of all; beyond *capacity*, fall back to concatenation."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._capacity:
            self._buffers = None
            joined: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return joined
        if self._buffers is None:
            self.lazy_initialization(key_states, value_states)
            self._buffers = _empty(key_states, self._capacity), _empty(value_states, self._capacity)
        keys, values = self._buffers
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values


def _empty(like: torch.Tensor, tokens: int) -> torch.Tensor:
    return like.new_empty(*like.shape[:-2], tokens, like.shape[-1])


def static_cache(config: PreTrainedConfig, capacity: int) -> DynamicCache:
    """Return a cache for a decoder with memory for *capacity* tokens; sliding-window layers stay unchanged."""
    cache = DynamicCache(config=config)
    cache.layers = [StaticCacheLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class GumbelSampler(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Perturbs next-token scores, float [rows, vocabulary], so that the argmax of each row is a sample.

    Each row has its own seed, so that a text does not depend on its batch.
    """

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        self._temperature = torch.tensor([[sampling.temperature or 1.0] for sampling in samplings], device=device)
        self._sampled = torch.tensor([[sampling.temperature > 0] for sampling in samplings], device=device)
        self._seed = torch.tensor([[sampling.seed] for sampling in samplings], dtype=torch.int64, device=device)
        self._step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        token = torch.arange(scores.shape[1], device=scores.device)
        bits = _splitmix64(_splitmix64(self._seed + self._step) + token * _INCREMENT)
        self._step += 1
        uniform = ((bits & ((1 << _BITS) - 1)).to(torch.float32) + 0.5) / (1 << _BITS)
        perturbed = scores.to(torch.float32) / self._temperature - torch.log(-torch.log(uniform))
        return torch.where(self._sampled, perturbed, scores.to(torch.float32))  # type: ignore[return-value]


def _splitmix64(number: torch.Tensor) -> torch.Tensor:
    number = number + _INCREMENT
    number = (number ^ _logical_shift_right(number, 30)) * _MULTIPLIERS[0]
    number = (number ^ _logical_shift_right(number, 27)) * _MULTIPLIERS[1]
    return number ^ _logical_shift_right(number, 31)


def _logical_shift_right(number: torch.Tensor, count: int) -> torch.Tensor:
    """Shift right by *count* bits without sign extension."""
    return (number >> count) & ((1 << (64 - count)) - 1)
