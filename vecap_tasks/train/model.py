"""The CLIP model of a run: created with random weights, loaded from one or two folders, and exported to a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from vecap_tasks.config import ClipConfig, Config
from vecap_tasks.core.models import init_folder
from vecap_tasks.core.preprocess import Statistics, read_statistics
from vecap_tasks.errors import ConfigError, VecapError, format_error
from vecap_tasks.train.towers import (
    LOAD_ERRORS,
    ClipModel,
    check_text_tower,
    image_size,
    join_towers,
    load_tower,
    lock,
)

_MLP_RATIO = 4  # hidden size of a block's MLP / width, as in the published CLIP models
_LEGACY_EOS_ID = 2  # an `eos_token_id` with which transformers' CLIP pools a text at its largest token id


def create_model(config: Config, tokenizer: PreTrainedTokenizerFast, seed: int) -> ClipModel:
    """Return the initial model of a run, with random weights where no pretrained model or tower is configured.

    The weights of locked towers need no gradients. Raises ConfigError if sizes do not fit, or if a pretrained model
    cannot be loaded or differs from the configuration.
    """
    folder = init_folder(config)
    model = _from_towers(config, tokenizer, seed) if folder is None else _pretrained(folder, config, tokenizer)
    lock(model, config.training.model)
    return model


def _from_towers(config: Config, tokenizer: PreTrainedTokenizerFast, seed: int) -> ClipModel:
    settings = config.training.model
    vision, text = (init_folder(config, setting) for setting in ("vision_init_from", "text_init_from"))
    if vision is None and text is None:
        return build_model(settings, tokenizer, seed)
    model = join_towers(
        _vision_sizes(settings) if vision is None else load_tower(vision, "vision"),
        _text_sizes(settings, tokenizer) if text is None else load_tower(text, "text"),
        settings.projection,
        seed,
    )
    if vision is not None and (size := image_size(model.vision_model, vision)) != settings.image_size:
        raise ConfigError(
            f"train.model.vision_init_from: {vision} has image_size {size}, the configuration {settings.image_size}; "
            f"set train.model.image_size to {size}"
        )
    if text is not None:
        check_text_tower(model, text, settings, tokenizer)
    return model


def _pretrained(folder: Path, config: Config, tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    disable_progress_bar()
    try:
        model, report = CLIPModel.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except LOAD_ERRORS as error:
        raise ConfigError(
            f"train.model.init_from: cannot load {folder} as a CLIPModel: {format_error(error)}"
        ) from error
    # transformers initializes missing weights randomly
    missing = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    if missing:
        raise ConfigError(
            f"train.model.init_from: {folder} has {len(missing)} missing weights of a CLIPModel, e.g. {missing[0]}"
        )
    _check(model, folder, config.training.model, tokenizer)
    return model


def _check(model: CLIPModel, folder: Path, expected: ClipConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise ConfigError if the sizes of *model* differ from *expected*, or if *tokenizer* does not match it."""
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
        if getattr(expected, name) != size:
            raise ConfigError(
                f"train.model.init_from: {folder} has {name} {size}, the configuration {getattr(expected, name)}; "
                f"set train.model.{name} to {size}"
            )
    if expected.context > text.max_position_embeddings:
        raise ConfigError(
            f"train.model.init_from: {folder} has a context length of {text.max_position_embeddings} tokens; "
            "lower train.model.context"
        )
    if len(tokenizer) > text.vocab_size:
        raise ConfigError(
            f"train.model.init_from: {folder} has {text.vocab_size} tokens, train.model.tokenizer {len(tokenizer)}; "
            "use the tokenizer that the model was trained with"
        )
    # A released model with the legacy EOS id keeps it, so its features do not change.
    if text.eos_token_id not in (_LEGACY_EOS_ID, tokenizer.eos_token_id):
        raise ConfigError(
            f"train.model.init_from: {folder} has EOS id {text.eos_token_id}, the tokenizer "
            f"{tokenizer.eos_token_id}; use the tokenizer that the model was trained with"
        )


def build_model(config: ClipConfig, tokenizer: PreTrainedTokenizerFast, seed: int) -> ClipModel:
    """Return a model with random weights drawn from *seed*. Raises ConfigError for inconsistent sizes."""
    return join_towers(_vision_sizes(config), _text_sizes(config, tokenizer), config.projection, seed)


def _vision_sizes(config: ClipConfig) -> CLIPVisionConfig:
    _check_heads("vision", config.vision_width, config.vision_heads)
    if config.image_size % config.patch_size:
        raise ConfigError(f"train.model: image_size {config.image_size} is not a multiple of patch_size")
    return CLIPVisionConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.vision_width,
        intermediate_size=_MLP_RATIO * config.vision_width,
        num_hidden_layers=config.vision_layers,
        num_attention_heads=config.vision_heads,
        hidden_act="gelu",
    )


def _text_sizes(config: ClipConfig, tokenizer: PreTrainedTokenizerFast) -> CLIPTextConfig:
    _check_heads("text", config.text_width, config.text_heads)
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.text_width,
        intermediate_size=_MLP_RATIO * config.text_width,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.text_heads,
        max_position_embeddings=config.context,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _check_heads(tower: str, width: int, heads: int) -> None:
    if width % heads:
        raise ConfigError(f"train.model: {tower}_width {width} is not a multiple of {tower}_heads {heads}")


def image_statistics(config: Config) -> Statistics:
    """Return the statistics that images are normalized with: those of a pretrained model or tower, otherwise CLIP's."""
    return read_statistics(init_folder(config) or init_folder(config, "vision_init_from"))


def export(
    model: ClipModel, tokenizer: PreTrainedTokenizerFast, processor: CLIPImageProcessorPil, folder: Path
) -> None:
    """Write a folder that `AutoModel`, `AutoTokenizer` and `AutoImageProcessor` can load with `from_pretrained`.

    Raises VecapError and OSError if writing fails.
    """
    disable_progress_bar()  # keeps progress bars out of logs
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        raise VecapError(
            f"cannot write the model to {folder}: {format_error(error)}; "
            "check free disk space, then run the same command again"
        ) from error
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
