"""Greedy generation with transformers, and what VLM and LLM share: loading, batches, reading back the new tokens.

A row's text does not depend on the rows that it is batched with. Prompts are padded to a length that follows from
their own length alone, and a batch never has fewer than `_FEWEST` rows: matrix products of fewer rows are computed
another way on CPUs, with other rounding. So a row gives the same text in whatever shard or retry it comes up, and
a text that another version already has is the one that would be made here. In half precision on a GPU that holds
up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import GenerationConfig

from vecap_tasks.config import ModelConfig
from vecap_tasks.errors import VecapError, one_line
from vecap_tasks.rewrite.checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError, SafetensorError)
_FEWEST = 16

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote. `tokens` counts the end token; `ended` is False where it ran into the limit."""

    text: str
    tokens: int
    ended: bool


def device_of(name: str) -> torch.device:
    """Return the device; `auto` is a GPU where there is one. Raises VecapError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise VecapError(f"device {name!r} is not there: {one_line(error)}; set device to auto or cpu") from error
    return device


def cannot_load(checkpoint: Checkpoint, error: BaseException) -> VecapError:
    return VecapError(
        f"model {checkpoint.name} cannot be loaded from {checkpoint.folder}: {one_line(error)}; "
        "check that the folder is whole and of the right kind"
    )


def load_weights(kind: Any, checkpoint: Checkpoint, settings: ModelConfig) -> PreTrainedModel:
    """Load a model by the transformers class *kind*, ready to generate.

    Raises VecapError for files that are damaged, incomplete, or a model of another kind.
    """
    torch.set_num_threads(settings.threads)
    device = device_of(settings.device)
    try:
        model, report = kind.from_pretrained(
            checkpoint.folder, dtype=getattr(torch, settings.dtype), local_files_only=True, output_loading_info=True
        )
    except LOAD_ERRORS as error:
        raise cannot_load(checkpoint, error) from error
    # transformers would go on with random numbers.
    lacking = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    if lacking:
        raise cannot_load(checkpoint, VecapError(f"{len(lacking)} weights are missing, such as {lacking[0]}"))
    model.eval().to(device)
    return model


def batch_rows(count: int, batch_size: int) -> int:
    """Return how many rows a batch of *count* is filled up to."""
    return min(batch_size, -(-count // _FEWEST) * _FEWEST)


class Generator:
    """A loaded model with its tokenizer, writing at most `max_new_tokens` tokens a row, the likeliest each time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ModelConfig) -> None:
        ends = model.generation_config.eos_token_id
        if ends is None:
            ends = tokenizer.eos_token_id
        ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        tokenizer.padding_side = "left"
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self._ends = torch.tensor(ends, dtype=torch.int64)
        # A checkpoint's own defaults may sample; a caption must come out the same every time.
        model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=ends or None,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Every token of the tokenizer's frame: nothing that comes from outside may hold one."""
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple(sorted({*self.tokenizer.all_special_tokens, *(str(t.content) for t in added if t.special)}))

    def write(self, inputs: dict[str, torch.Tensor], count: int) -> list[Written]:
        """Generate for a batch (`input_ids`: int64, rows by left-padded length) and return its first *count* rows.

        Raises VecapError where the device's memory is too small.
        """
        place = self.model.device
        dtype = self.model.dtype
        moved = {
            name: value.to(place, dtype) if value.is_floating_point() else value.to(place)
            for name, value in inputs.items()
        }
        try:
            with torch.inference_mode():
                rows = self.model.generate(**moved)[:count, moved["input_ids"].shape[1] :].cpu()
        except torch.OutOfMemoryError as error:
            raise VecapError(
                f"{place} has too little memory for {self.settings.batch_size} rows of {self.settings.model}; "
                "lower its batch_size"
            ) from error
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [self._written(text, row) for text, row in zip(texts, rows, strict=True)]

    def _written(self, text: str, row: torch.Tensor) -> Written:
        ends = torch.isin(row, self._ends).nonzero()
        ended = len(ends) > 0
        return Written(" ".join(text.split()), int(ends[0]) + 1 if ended else len(row), ended)
