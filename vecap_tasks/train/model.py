"""The CLIP model of a run: as transformers builds it or as a folder has it, and the folder that it is exported to."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from vecap_tasks.config import ClipConfig, Config
from vecap_tasks.core.models import init_folder
from vecap_tasks.errors import ConfigError, VecapError, format_error

_WIDER_MLP = 4  # the hidden layer of a block, in widths, as in the published CLIP models

_LARGEST_ID_IS_THE_END = 2  # an `eos_token_id` by which transformers' CLIP reads a text at its largest id
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, AttributeError, SafetensorError)


def open_model(config: Config, tokenizer: PreTrainedTokenizerFast, seed: int) -> CLIPModel:
    """Return the model that a run begins with: the configured start, else a new one.

    Raises ConfigError for sizes that do not fit, and for a start that cannot be loaded or is another model.
    """
    folder = init_folder(config)
    return new_model(config.train.model, tokenizer, seed) if folder is None else _started(folder, config, tokenizer)


def _started(folder: Path, config: Config, tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    disable_progress_bar()
    try:
        model, report = CLIPModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except _LOAD_ERRORS as error:
        raise ConfigError(
            f"train.model.init_from: {folder} cannot be loaded as a CLIPModel: {format_error(error)}"
        ) from error
    # transformers would go on with random numbers
    lacking = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    if lacking:
        raise ConfigError(
            f"train.model.init_from: {folder} lacks {len(lacking)} weights of a CLIPModel, as {lacking[0]}"
        )
    _check(model, folder, config.train.model, tokenizer)
    return model


def _check(model: CLIPModel, folder: Path, wanted: ClipConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise ConfigError where *model* is not of the configured sizes, or does not go with *tokenizer*."""
    vision, text = model.config.vision_config, model.config.text_config
    sizes = {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "vision_width": vision.hidden_size,
        "vision_layers": vision.num_hidden_layers,
        "vision_heads": vision.num_attention_heads,
        "text_width": text.hidden_size,
        "text_layers": text.num_hidden_layers,
        "text_heads": text.num_attention_heads,
        "projection": model.config.projection_dim,
    }
    for name, size in sizes.items():
        if getattr(wanted, name) != size:
            raise ConfigError(
                f"train.model.init_from: {folder} has {name} {size}, the configuration {getattr(wanted, name)}; "
                f"set train.model.{name}"
            )
    if wanted.context > text.max_position_embeddings:
        raise ConfigError(
            f"train.model.init_from: {folder} reads {text.max_position_embeddings} tokens; lower train.model.context"
        )
    if len(tokenizer) > text.vocab_size:
        raise ConfigError(
            f"train.model.init_from: {folder} has {text.vocab_size} tokens, train.model.tokenizer {len(tokenizer)}; "
            "give the tokenizer that the model was trained with"
        )
    # A release whose texts are read at the largest id stays as it is: its features are those that it was made with.
    if text.eos_token_id not in (_LARGEST_ID_IS_THE_END, tokenizer.eos_token_id):
        raise ConfigError(
            f"train.model.init_from: {folder} uses {text.eos_token_id} as EOS, the tokenizer "
            f"{tokenizer.eos_token_id}; give the tokenizer that the model was trained with"
        )


def new_model(config: ClipConfig, tokenizer: PreTrainedTokenizerFast, seed: int) -> CLIPModel:
    """Return an untrained model; *seed* decides its weights. Raises ConfigError for sizes that do not fit."""
    for tower, width, heads in (
        ("vision", config.vision_width, config.vision_heads),
        ("text", config.text_width, config.text_heads),
    ):
        if width % heads:
            raise ConfigError(f"train.model: {tower}_width {width} is not a multiple of {tower}_heads {heads}")
    if config.image_size % config.patch_size:
        raise ConfigError(f"train.model: image_size {config.image_size} is not a multiple of patch_size")
    made = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": config.text_width,
            "intermediate_size": _WIDER_MLP * config.text_width,
            "num_hidden_layers": config.text_layers,
            "num_attention_heads": config.text_heads,
            "max_position_embeddings": config.context,
            "hidden_act": "gelu",
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "hidden_size": config.vision_width,
            "intermediate_size": _WIDER_MLP * config.vision_width,
            "num_hidden_layers": config.vision_layers,
            "num_attention_heads": config.vision_heads,
            "hidden_act": "gelu",
        },
        projection_dim=config.projection,
    )
    torch.manual_seed(seed)
    return CLIPModel(made)


def export(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, processor: CLIPImageProcessorPil, folder: Path
) -> None:
    """Write a folder that `CLIPModel`, `AutoTokenizer` and `AutoImageProcessor` load by `from_pretrained`.

    Raises VecapError and OSError where it cannot be written.
    """
    disable_progress_bar()  # it writes a bar for each file, into logs too
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        raise VecapError(
            f"the model cannot be written to {folder}: {format_error(error)}; "
            "see whether the disk is full, then run the same command again"
        ) from error
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
