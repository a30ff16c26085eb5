"""Generation with transformers: loading, batches, CPU kernels, reading back new tokens."""

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
from transformers import DynamicCache, GenerationConfig, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from vecap_tasks.config import ModelConfig
from vecap_tasks.core.models import Checkpoint, open_device
from vecap_tasks.errors import PermanentError, VecapError, load_problem
from vecap_tasks.rewrite.backends.gumbel_sampler import GumbelSampler
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)
T = TypeVar("T")
Inputs = dict[str, torch.Tensor]

LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError, SafetensorError)
LENGTH_STEP = 16  # prompts are padded to a multiple of this many tokens, and batched with those of the same length
_FEWEST = 16
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's malloc.h
_MAPPED_FROM = 32 << 20  # bytes; glibc takes no more
_KEPT = 1 << 30  # bytes

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class OneDnnLinear(nn.Linear):
    """A linear layer that is computed by oneDNN where it can be, for inference alone: no gradient comes back."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return float [..., out] of float [..., in]."""
        if input.dtype != torch.float32 or input.device.type != "cpu":
            return super().forward(input)
        made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return made


def set_up_torch(model: nn.Module) -> None:
    """Let *model*, if it is float32 and on a CPU, multiply by oneDNN, and its process keep the memory that it frees."""
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
    """Have malloc use freed blocks of up to 32 MiB again, instead of giving them back to the system each time.

    A batch's tensors are made and freed dozens of times a second, and the system fills with noughts whatever it gives
    anew. `dask worker` has malloc give back everything by MALLOC_TRIM_THRESHOLD_; this stands above that variable.
    Nothing happens where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, _MAPPED_FROM)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT)


def cannot_load(checkpoint: Checkpoint, error: BaseException) -> PermanentError:
    return PermanentError(
        f"model {checkpoint.name} cannot be loaded from {checkpoint.folder}: {load_problem(error)}; "
        "check that the folder is whole and of the right kind"
    )


def load_weights(kind: Any, checkpoint: Checkpoint, settings: ModelConfig, section: str) -> PreTrainedModel:
    """Load a model by the transformers class *kind*, ready to generate; *section* is where *settings* stand.

    Raises PermanentError for files that are damaged, incomplete, or a model of another kind, and for a device that is
    not there.
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
    # transformers would go on with random numbers.
    lacking = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    if lacking:
        raise cannot_load(checkpoint, PermanentError(f"{len(lacking)} weights are missing, such as {lacking[0]}"))
    model.eval().to(device)
    set_up_torch(model)
    return model


def padded(length: int) -> int:
    """Return the length that a prompt of *length* tokens is padded to."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


class Generator:
    """A loaded model with its tokenizer, writing at most `max_new_tokens` tokens a row.

    `rows` is how many rows fit into the device's memory at once: `batch_size` until it proves to be too many.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ModelConfig) -> None:
        usual = model.generation_config
        ends = usual.eos_token_id
        if ends is None:
            ends = tokenizer.eos_token_id
        ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        speakers = [model, getattr(model, "language_model", None)]
        self.answers_apart = any(
            getattr(getattr(part, "config", None), "is_encoder_decoder", False) for part in speakers
        )
        self._remembers_by_layers = not self.answers_apart and model._supports_default_dynamic_cache()
        # Positions of what is read by an encoder are counted from the left, masked or not.
        tokenizer.padding_side = "right" if self.answers_apart else "left"
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.rows = settings.batch_size
        self._ends = torch.tensor(ends, dtype=torch.int64)
        # A checkpoint's own defaults may sample; a caption must come out the same every time.
        mine = GenerationConfig(
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=ends or None,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            decoder_start_token_id=usual.decoder_start_token_id,
        )
        for part in model.modules():  # BLIP-2 generates by a part of itself
            if getattr(part, "generation_config", None) is not None:
                part.generation_config = mine

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Every token of the tokenizer's frame: nothing that comes from outside may hold one."""
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple(sorted({*self.tokenizer.all_special_tokens, *(str(t.content) for t in added if t.special)}))

    def filled(self, batch: Sequence[T]) -> list[T]:
        """Return *batch* with its last item repeated until there are as many rows as the model is to be given."""
        count = min(self.rows, -(-len(batch) // _FEWEST) * _FEWEST)
        return [*batch, *[batch[-1]] * (count - len(batch))]

    def write(
        self,
        batch: Sequence[tuple[T, Sampling]],
        prepare: Callable[[Sequence[T]], Inputs],
        prepared: Inputs | None = None,
    ) -> list[GeneratedText]:
        """Write a text for each of *batch*. *prepare* makes a model's inputs (`input_ids` int64 [rows, tokens], …).

        *prepared* are those inputs of the whole batch, filled, where they are at hand already. Where memory runs out
        the batch is halved, and so are those that follow. Raises VecapError where one row is too much.
        """
        if len(batch) <= self.rows:
            try:
                rows = self.filled(batch)
                log.debug("%s: writing %d texts", self.settings.model, len(batch))
                if prepared is None or len(prepared["input_ids"]) != len(rows):  # made when more rows fitted
                    prepared = prepare([item for item, _ in rows])
                return self._generate(prepared, [draw for _, draw in rows])[: len(batch)]
            except torch.OutOfMemoryError as error:
                if self.rows == 1 or len(batch) == 1:
                    raise VecapError(
                        f"{self.model.device} has too little memory for one row of {self.settings.model}; "
                        "take a smaller model, a smaller dtype or a larger device"
                    ) from error
                self.rows = -(-len(batch) // 2)
            log.warning("%s: out of memory with %d rows, going on with %d", self.settings.model, len(rows), self.rows)
            prepared = None
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
        first, rest = batch[: self.rows], batch[self.rows :]
        return [*self.write(first, prepare), *(self.write(rest, prepare) if rest else ())]

    def _generate(self, inputs: Inputs, draws: Sequence[Sampling]) -> list[GeneratedText]:
        place = self.model.device
        dtype = self.model.dtype
        moved: dict[str, Any] = {
            name: value.to(place, dtype) if value.is_floating_point() else value.to(place)
            for name, value in inputs.items()
        }
        sampled = [GumbelSampler(draws, place)] if any(draw.temperature for draw in draws) else None
        tokens = moved["input_ids"].shape[1]
        if self._remembers_by_layers:
            moved["past_key_values"] = static_cache(self.model.config, tokens + self.settings.max_new_tokens)
        with torch.inference_mode():
            rows = self.model.generate(**moved, logits_processor=sampled)
        rows = rows[:, 1 if self.answers_apart else tokens :].cpu()
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        asked = inputs["attention_mask"].sum(1).tolist()
        return [self._written(text, row, count) for text, row, count in zip(texts, rows, asked, strict=True)]

    def _written(self, text: str, row: torch.Tensor, asked: int) -> GeneratedText:
        ends = torch.isin(row, self._ends).nonzero()
        ended = len(ends) > 0
        return GeneratedText(" ".join(text.split()), int(ends[0]) + 1 if ended else len(row), ended, asked)


class StaticCacheLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of one layer, [rows, heads, tokens, width] each, in memory that holds *room* tokens."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._held: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the newest tokens behind the others, and return views of all; more than *room* are joined as usual."""
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if after > self._room:
            self._held = None
            joined: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return joined
        if self._held is None:
            self.lazy_initialization(key_states, value_states)
            self._held = _empty(key_states, self._room), _empty(value_states, self._room)
        keys, values = self._held
        keys[..., before:after, :] = key_states
        values[..., before:after, :] = value_states
        self.keys, self.values = keys[..., :after, :], values[..., :after, :]
        return self.keys, self.values


def _empty(like: torch.Tensor, tokens: int) -> torch.Tensor:
    return like.new_empty(*like.shape[:-2], tokens, like.shape[-1])


def static_cache(config: PreTrainedConfig, room: int) -> DynamicCache:
    """Return a cache for a decoder of *config* with memory for *room* tokens; sliding windows stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [StaticCacheLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
