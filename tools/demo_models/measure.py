"""Measures a VLM checkpoint on held-out scenes, with the code that loads LLaVA-1.5.

    python -m tools.demo_models.measure --vlm DIR

Each scene is drawn at 320 pixels, saved as JPEG with quality 90, resized to 256 pixels and saved with quality 95, like
a crawled image. `scene.parse` reads the caption; each attribute is scored separately, and an unreadable caption counts
as wrong in all of them.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Final

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from tools.demo_models.captions import PROMPTS, prompt_text
from tools.demo_models.pool import through_jpeg
from vecap_tasks.demo.draw import draw
from vecap_tasks.demo.scene import Scene, describe, parse, sample_scene

SCENES: Final = 1_000
SEED: Final = 2_026
_BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares (0 to 1) of scenes with a correct attribute in the caption; `relation` only of scenes with two groups."""

    scenes: int
    object: float
    color: float
    count: float
    relation: float
    ground: float
    whole: float
    parsed: float
    images_per_second: float


def as_crawled(scene: Scene) -> Image.Image:
    """Return the scene as the VLM receives it: RGB, 256 by 256 pixels, two passes through JPEG."""
    image = through_jpeg(draw(scene, 320), 90)
    return through_jpeg(image.resize((256, 256), Image.Resampling.BICUBIC), 95)


def held_out(count: int, seed: int) -> list[Scene]:
    """Return random scenes of the `eval` split."""
    rng = Random(seed)
    return [sample_scene(rng, "eval") for _ in range(count)]


def load(folder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Load a checkpoint and its processor like LLaVA-1.5."""
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False).eval()
    return model, AutoProcessor.from_pretrained(folder, trust_remote_code=False)


def captions(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    images: Sequence[Image.Image],
    prompt: str = PROMPTS[0],
) -> list[str]:
    """Return greedy captions of one batch of images."""
    text = [prompt_text(processor, prompt)] * len(images)
    inputs = processor(text=text, images=list(images), padding=True, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]


def mark(scenes: Sequence[Scene], texts: Sequence[str], seconds: float) -> Figures:
    """Score the captions *texts* of *scenes*."""
    parsed = [parse(caption) for caption in texts]
    pairs = list(zip(scenes, parsed, strict=True))
    related = [pair for pair in pairs if pair[0].relation is not None]

    def share(correct: Sequence[bool]) -> float:
        return round(sum(correct) / len(correct), 4)

    def groups(name: str) -> float:
        values = [
            found is not None
            and [getattr(group, name) for group in scene.groups] == [getattr(group, name) for group in found.groups]
            for scene, found in pairs
        ]
        return share(values)

    return Figures(
        scenes=len(scenes),
        object=groups("kind"),
        color=groups("color"),
        count=groups("count"),
        relation=share([found is not None and found.relation == scene.relation for scene, found in related]),
        ground=share([found is not None and found.ground == scene.ground for scene, found in pairs]),
        whole=share([caption == describe(scene) for scene, caption in zip(scenes, texts, strict=True)]),
        parsed=share([found is not None for found in parsed]),
        images_per_second=round(len(scenes) / seconds, 1),
    )


def measure(folder: Path, count: int = SCENES, seed: int = SEED, prompt: str = PROMPTS[0]) -> Figures:
    """Caption `count` held-out scenes with the checkpoint and score the captions."""
    model, processor = load(folder)
    scenes = held_out(count, seed)
    images = [as_crawled(scene) for scene in scenes]
    start = time.perf_counter()
    texts = [
        caption
        for first in range(0, count, _BATCH)
        for caption in captions(model, processor, images[first : first + _BATCH], prompt)
    ]
    return mark(scenes, texts, time.perf_counter() - start)


def main() -> None:
    """Print the scores of a checkpoint."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo_models.measure",
        description="Score a VLM's captions of held-out scenes.",
        epilog="example: python -m tools.demo_models.measure --vlm vecap_tasks/demo/models/vlm",
    )
    parser.add_argument("--vlm", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--scenes", type=int, default=SCENES, help=f"number of scenes (default {SCENES})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"seed of the scenes (default {SEED})")
    parser.add_argument("--prompt", default=PROMPTS[0], help=f"prompt (default: {PROMPTS[0]!r})")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if not (arguments.vlm / "config.json").is_file():
        parser.error(f"{arguments.vlm} has no config.json; pass the folder of a transformers checkpoint")
    figures = measure(arguments.vlm, arguments.scenes, arguments.seed, arguments.prompt)
    if arguments.json:
        print(json.dumps(asdict(figures)))
        return
    for name, value in asdict(figures).items():
        print(f"{name:18} {value:.1%}" if isinstance(value, float) and value <= 1 else f"{name:18} {value}")


if __name__ == "__main__":
    main()
