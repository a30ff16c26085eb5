"""Trains the small VLM from scratch: a LLaVA (CLIP vision tower, projector, Llama) on drawn scenes, on a CPU.

    python -m tools.demo_models.vlm --out DIR

The checkpoint is a plain transformers folder that AutoProcessor and AutoModelForImageTextToText load like LLaVA-1.5.
Training uses only scenes of the `train` split. The same seed and package versions give the same weights.
"""

import argparse
import logging
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tools.demo_models.captions import PROMPTS, train_captions
from tools.demo_models.pool import PATCH, SIDE, Pool, make_pool
from tools.demo_models.tokenizer import CONTEXT, train_tokenizer
from tools.demo_models.tower import Answers, prepare, train_tower

log = logging.getLogger("vecap.recipe.vlm")

SEED: Final = 100_000
_HELD_OUT_SEED: Final = 7
_MAX_NEW_TOKENS: Final = 40
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length of each phase in steps of 64 images; about an hour in total on one core."""

    images: int = 60_000
    tower_steps: int = 1_700
    frozen_steps: int = 800
    joint_steps: int = 1_200
    threads: int = 2


def new_processor() -> LlavaProcessor:
    """Return the processor. Images: short side resized to 96 pixels, center crop, values in -1..1."""
    tokenizer = train_tokenizer(PROMPTS)
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int = SEED) -> LlavaForConditionalGeneration:
    """Return the untrained model: a tower of 4 layers of width 192, a Llama of 3 layers of width 128."""
    torch.manual_seed(seed)
    tower = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=6,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=192,
    )
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=language,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(SIDE // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    # At this width, plain matrix products train faster on a CPU than fused attention.
    model.set_attn_implementation("eager")
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=_MAX_NEW_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    prepare(model.model.vision_tower)
    return model


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write the checkpoint to a temporary folder, then move each file to `folder`; other files there stay."""
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    processor.save_pretrained(temporary)
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(temporary.iterdir()):
        file.chmod(0o644)
        file.replace(folder / file.name)
    temporary.rmdir()


def train(out: Path, schedule: Schedule, work: Path | None) -> None:
    """Run all phases and save to `out`. Phases already finished in `work` are loaded instead."""
    torch.set_num_threads(schedule.threads)
    if work:
        work.mkdir(parents=True, exist_ok=True)
    processor = new_processor()
    model = new_model(processor.tokenizer)
    heads = Answers(model.model.vision_tower.config.hidden_size)
    pool = _pool(schedule, work)
    held_out = make_pool(400, "eval", _HELD_OUT_SEED, schedule.threads)
    phases = (
        ("tower", lambda: train_tower(model.model.vision_tower, heads, pool, held_out, schedule.tower_steps, SEED)),
        ("frozen", lambda: train_captions(model, processor, None, pool, schedule.frozen_steps, SEED + 1)),
        ("joint", lambda: train_captions(model, processor, heads, pool, schedule.joint_steps, SEED + 2)),
    )
    for name, run in phases:
        checkpoint = work / f"{name}.pt" if work else None
        if checkpoint and checkpoint.exists():
            states = torch.load(checkpoint)
            model.load_state_dict(states[0])
            heads.load_state_dict(states[1])
        else:
            run()
            if checkpoint:
                _write(checkpoint, (model.state_dict(), heads.state_dict()))
        if name != "tower":
            save(model, processor, out)


def _pool(schedule: Schedule, work: Path | None) -> Pool:
    """Return the training images; cached in `work` between runs."""
    file = work / f"pool-{schedule.images}.pt" if work else None
    if file and file.exists():
        with file.open("rb") as stream:
            cached: Pool = pickle.load(stream)  # noqa: S301 - written by this function
        return cached
    log.info("Drawing %d images", schedule.images)
    pool = make_pool(schedule.images, "train", SEED, schedule.threads)
    if file:
        with file.with_suffix(".new").open("wb") as stream:
            pickle.dump(pool, stream, protocol=5)
        file.with_suffix(".new").replace(file)
    return pool


def _write(file: Path, states: object) -> None:
    torch.save(states, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)


def main() -> None:
    """Train and save the checkpoint."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo_models.vlm",
        description=__doc__.split("\n", 1)[0] if __doc__ else None,
        epilog="example: python -m tools.demo_models.vlm --out /tmp/vlm --work /tmp/vlm-work",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint into")
    parser.add_argument("--work", type=Path, help="folder for images and finished phases, to resume from")
    parser.add_argument("--threads", type=int, default=Schedule().threads, help="CPU threads (default 2)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    train(arguments.out, Schedule(threads=arguments.threads), arguments.work)


if __name__ == "__main__":
    main()
