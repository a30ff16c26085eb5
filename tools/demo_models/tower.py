"""First phase: the vision tower alone learns to classify each patch and the image.

Captions are a weak training signal: from captions only, a tower of this size needs hours on a CPU to distinguish forty
kinds. Seven labels per patch (`pool.QUESTIONS`) teach it in minutes. The VLM reads the patches only; the labels of the
image (`pool.SUMMARY`) train the pooled output, for CLIP models that start from this tower.
"""

import logging
import time
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tools.demo_models.optimizer import Optimizer, half_precision
from tools.demo_models.pool import GRID, IGNORED, PATCH, QUESTIONS, SUMMARY, Pool, summary

log = logging.getLogger("vecap.recipe.vlm")

BATCH: Final = 64
RATE: Final = 1.5e-3
# Loss weights, in the order of QUESTIONS, and of the class "nothing" among the kinds, which half of all patches have.
_WEIGHTS: Final = (1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1)
_NOTHING_WEIGHT: Final = 0.1
_SUMMARY_WEIGHT: Final = 0.3  # of each label of the image
_LOG_EVERY: Final = 100


class Answers(nn.Module):
    """Linear heads that predict every label from the tower's features. They are not part of the checkpoint."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, sum(size for _, size in QUESTIONS))
        self.summary = nn.Linear(width, sum(size for _, size in SUMMARY))

    def forward(self, seen: BaseModelOutputWithPooling) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return logits of the labels of the patches (n, patches, classes) and of the image (n, classes)."""
        patches = self.out(self.norm(seen.last_hidden_state[:, 1:]))
        image = self.summary(seen.pooler_output)
        return patches.split([size for _, size in QUESTIONS], -1), image.split([size for _, size in SUMMARY], -1)


def answers_loss(heads: Answers, seen: BaseModelOutputWithPooling, pool: Pool, chosen: NDArray[np.intp]) -> Tensor:
    """Return the weighted cross-entropy of all labels of the *chosen* images, from the tower's output *seen*."""
    patches, image = heads(seen)
    labels = torch.from_numpy(pool.answers[chosen])
    total = torch.zeros(())
    for question, (logits, weight) in enumerate(zip(patches, _WEIGHTS, strict=True)):
        classes = torch.ones(logits.shape[-1])
        if question == 0:
            classes[-1] = _NOTHING_WEIGHT
        target = labels[:, question].flatten().long()
        logits = logits.flatten(0, 1).float()
        total = total + weight * functional.cross_entropy(logits, target, classes, ignore_index=IGNORED)
    targets = torch.from_numpy(np.stack([summary(pool.scenes[index]) for index in chosen]))
    for logits, target in zip(image, targets.T, strict=True):
        total = total + _SUMMARY_WEIGHT * functional.cross_entropy(logits.float(), target, ignore_index=IGNORED)
    return total


def pixels(pool: Pool, chosen: NDArray[np.intp], rng: torch.Generator | None = None) -> Tensor:
    """Return images as the processor does, float32 (n, 3, 96, 96) in -1..1; with `rng`, with color jitter."""
    values = torch.from_numpy(pool.pixels[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
    if rng is None:
        return values
    contrast = 1 + 0.1 * torch.randn(len(chosen), 1, 1, 1, generator=rng)
    brightness = 0.08 * torch.randn(len(chosen), 1, 1, 1, generator=rng)
    tint = 0.03 * torch.randn(len(chosen), 3, 1, 1, generator=rng)
    return values * contrast + brightness + tint


def batches(count: int, size: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield index batches forever; every image once per epoch."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def prepare(tower: CLIPVisionModel) -> None:
    """Initialize the embeddings: patch filters as cosine waves, positions as waves along x and y."""
    width = tower.config.hidden_size
    embeddings = tower.embeddings
    steps = (np.arange(PATCH) + 0.5) * np.pi / PATCH
    waves = sorted(np.ndindex(PATCH, PATCH), key=lambda wave: wave[0] ** 2 + wave[1] ** 2)
    filters = []
    # Half of the filters see brightness, a quarter each red-green and blue-yellow contrast.
    for rgb, share in (((0.5, 0.6, 0.4), 2), ((0.7, -0.7, 0.0), 4), ((0.35, 0.35, -0.8), 4)):
        for u, v in waves[: width // share]:
            wave = np.outer(np.cos(steps * u), np.cos(steps * v))
            strength = (1 + np.hypot(u, v)) ** 0.5 / np.linalg.norm(wave)
            filters.append(np.multiply.outer(rgb, wave * strength))
    row, column = np.divmod(np.arange(GRID * GRID), GRID)
    rates = np.geomspace(1, GRID, width // 4) * np.pi / GRID / 2
    angles = (np.outer(column, rates), np.outer(row, rates))
    positions = np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    with torch.no_grad():
        embeddings.patch_embedding.weight.copy_(torch.from_numpy(np.stack(filters)))
        embeddings.position_embedding.weight.zero_()
        embeddings.position_embedding.weight[1:] = torch.from_numpy(0.5 * positions).float()


def train_tower(
    tower: CLIPVisionModel, heads: Answers, pool: Pool, held_out: Pool, steps: int, seed: int, rate: float = RATE
) -> None:
    """Train tower and heads in place; logs the loss and the held-out accuracy of each label."""
    optimizer = Optimizer((tower, heads), rate, steps)
    rng = torch.Generator().manual_seed(seed)
    tower.train()
    start = time.monotonic()
    for step, chosen in zip(range(1, steps + 1), batches(len(pool.pixels), BATCH, seed), strict=False):
        with half_precision():
            loss = answers_loss(heads, tower(pixels(pool, chosen, rng)), pool, chosen)
        optimizer.step(loss)
        if step % _LOG_EVERY == 0 or step == steps:
            accuracies = " ".join(f"{name} {share:.3f}" for name, share in label_accuracies(tower, heads, held_out))
            seconds = time.monotonic() - start
            log.info("tower step %d of %d loss %.3f %s %.0f s", step, steps, float(loss.detach()), accuracies, seconds)


@torch.no_grad()
def label_accuracies(tower: CLIPVisionModel, heads: Answers, pool: Pool, count: int = 400) -> list[tuple[str, float]]:
    """Return the accuracy of each label over patches (kinds: with an object) and images that have it."""
    count = min(count, len(pool.pixels))
    with half_precision():
        patches, image = heads(tower(pixels(pool, np.arange(count))))
    accuracies = []
    for question, (name, size) in enumerate(QUESTIONS):
        labels = torch.from_numpy(pool.answers[:count, question]).long()
        labeled = (labels != IGNORED) & ((labels != size - 1) if name == "kind" else True)
        accuracies.append((name, float((patches[question].argmax(-1) == labels)[labeled].float().mean())))
    targets = torch.from_numpy(np.stack([summary(scene) for scene in pool.scenes[:count]])).T
    for (name, _), logits, target in zip(SUMMARY, image, targets, strict=True):
        labeled = target != IGNORED
        accuracies.append((f"{name}:", float((logits.argmax(-1) == target)[labeled].float().mean())))
    return accuracies
