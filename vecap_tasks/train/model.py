"""The CLIP model of a run, as transformers builds it, and the folder that it is exported to."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from vecap_tasks.config import ClipConfig
from vecap_tasks.errors import ConfigError

_WIDER_MLP = 4  # the hidden layer of a block, in widths, as in the published CLIP models


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
    """Write a folder that `CLIPModel`, `AutoTokenizer` and `AutoImageProcessor` load by `from_pretrained`."""
    disable_progress_bar()  # it writes a bar for each file, into logs too
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
