"""Towers of a CLIP model that are loaded from pretrained models, and models that consist of such towers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)
from transformers.utils.logging import disable_progress_bar

from vecap_tasks.config import ClipConfig
from vecap_tasks.errors import ConfigError, format_error

ClipModel: TypeAlias = "CLIPModel | VisionTextDualEncoderModel"
Side = Literal["vision", "text"]
LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, AttributeError, SafetensorError)
_NAMES = ("{}_model", "{}_tower", "{}_encoder", "model")  # of a tower in a model of several towers
_DROPOUT = ("dropout", "attention_dropout", "activation_dropout", "dropout_prob", "drop_prob")


def load_tower(folder: Path, side: Side) -> PreTrainedModel:
    """Return the pretrained *side* of a CLIP model in *folder*, in float32 and without dropout.

    The folder has a model that transformers loads and that returns a `pooler_output`, such as CLIP, SigLIP, ViT, DINOv2
    or BERT, or a model with such a tower, such as LLaVA. Raises ConfigError if it has none, or if weights are missing.
    """
    disable_progress_bar()
    setting = f"train.model.{side}_init_from"
    try:
        found = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, report = AutoModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except LOAD_ERRORS as error:
        raise ConfigError(f"{setting}: cannot load {folder}: {format_error(error)}") from error
    tower, prefix = model, ""
    if hasattr(found, f"{side}_config"):
        names = (name.format(side) for name in _NAMES)
        prefix = next((name for name in names if isinstance(getattr(model, name, None), nn.Module)), "")
        if not prefix:
            raise ConfigError(f"{setting}: {folder} has no {side} tower ({type(model).__name__}); use another model")
        tower = getattr(model, prefix)
    # transformers initializes missing weights randomly
    missing = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    if missing := [name for name in missing if name.startswith(prefix)]:
        raise ConfigError(
            f"{setting}: {folder} has {len(missing)} missing weights of the {side} tower, e.g. {missing[0]}; use a "
            "model with all weights"
        )
    _disable_dropout(tower)
    _check_output(tower, folder, side)
    return tower


def _disable_dropout(model: nn.Module) -> None:
    """Train without dropout: its random numbers could not be repeated when a run resumes."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in _DROPOUT:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


@torch.no_grad()
def _check_output(tower: PreTrainedModel, folder: Path, side: Side) -> None:
    setting = f"train.model.{side}_init_from"
    try:
        if side == "vision":
            size = image_size(tower, folder)
            output = tower(pixel_values=torch.zeros(1, 3, size, size))
        else:
            ids = torch.zeros(1, 4, dtype=torch.int64)
            output = tower(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (TypeError, *LOAD_ERRORS) as error:
        raise ConfigError(
            f"{setting}: {folder} has no {side} tower ({type(tower).__name__}): {format_error(error)}"
        ) from error
    pooled = getattr(output, "pooler_output", None)
    if pooled is None or pooled.shape != (1, tower.config.hidden_size):
        raise ConfigError(
            f"{setting}: {folder} ({type(tower).__name__}) has no pooled output of its width; use e.g. a CLIP, SigLIP, "
            f"{'ViT or DINOv2' if side == 'vision' else 'BERT or RoBERTa'} model"
        )


def image_size(tower: PreTrainedModel, folder: Path) -> int:
    """Return the side of the images that *tower* takes, in pixels. Raises ConfigError if it is not known."""
    size = getattr(tower.config, "image_size", None)
    if not isinstance(size, int):
        raise ConfigError(f"train.model.vision_init_from: {folder} has no image_size; use a model of square images")
    return size


def join_towers(
    vision: PreTrainedModel | CLIPVisionConfig, text: PreTrainedModel | CLIPTextConfig, projection: int, seed: int
) -> ClipModel:
    """Return a model of both towers; what is given as a configuration gets random weights drawn from *seed*.

    Two CLIP towers make a `CLIPModel`, others a `VisionTextDualEncoderModel`.
    """
    vision_config = vision.config if isinstance(vision, PreTrainedModel) else vision
    text_config = text.config if isinstance(text, PreTrainedModel) else text
    torch.manual_seed(seed)
    if isinstance(vision_config, CLIPVisionConfig) and isinstance(text_config, CLIPTextConfig):
        sizes = CLIPConfig(
            text_config=text_config.to_dict(), vision_config=vision_config.to_dict(), projection_dim=projection
        )
        model = CLIPModel(sizes)
        for name, tower in (("vision_model", vision), ("text_model", text)):
            if isinstance(tower, PreTrainedModel):
                getattr(model, name).load_state_dict(tower.state_dict())
        return model
    return VisionTextDualEncoderModel(
        VisionTextDualEncoderConfig.from_vision_text_configs(vision_config, text_config, projection_dim=projection),
        vision if isinstance(vision, PreTrainedModel) else CLIPVisionModel(vision),
        text if isinstance(text, PreTrainedModel) else CLIPTextModel(text),
    )


def lock(model: ClipModel, config: ClipConfig) -> None:
    """Exclude the locked towers of *model* from training; their projections are trained (LiT, Zhai et al., 2022)."""
    for locked, tower in ((config.vision_locked, model.vision_model), (config.text_locked, model.text_model)):
        if locked:
            tower.requires_grad_(False)


def padding_id(model: ClipModel) -> int | None:
    """Return the padding id for which *model* needs an attention mask; None for CLIP's text tower, which is causal."""
    text = model.config.text_config
    return None if isinstance(text, CLIPTextConfig) else int(text.pad_token_id)


def check_text_tower(model: ClipModel, folder: Path, config: ClipConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise ConfigError if *tokenizer* or the context length does not fit the pretrained text tower of *folder*."""
    text = model.config.text_config
    setting = "train.model.text_init_from"
    longest = getattr(text, "max_position_embeddings", None)
    if longest is not None and config.context > longest:
        raise ConfigError(f"{setting}: {folder} has a context length of {longest} tokens; lower train.model.context")
    if len(tokenizer) > text.vocab_size:
        raise ConfigError(
            f"{setting}: {folder} has {text.vocab_size} tokens, train.model.tokenizer {len(tokenizer)}; use the "
            "tokenizer that the model was trained with"
        )
    if padding_id(model) is not None and text.pad_token_id != tokenizer.pad_token_id:
        raise ConfigError(
            f"{setting}: {folder} has padding id {text.pad_token_id}, the tokenizer {tokenizer.pad_token_id}; use the "
            "tokenizer that the model was trained with"
        )
