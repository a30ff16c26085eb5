"""First phase: the vision tower alone learns to classify each patch.

Captions are a weak training signal: from captions only, a tower of this size needs hours on a CPU to distinguish forty
kinds. Six labels per patch (`pool.QUESTIONS`) teach it in minutes.
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

from tools.demo_models.optimizer import Optimizer
from tools.demo_models.pool import GRID, IGNORED, PATCH, QUESTIONS, Pool

log = logging.getLogger("vecap.recipe.vlm")

BATCH: Final = 64
RATE: Final = 1.5e-3
# Loss weights, in the order of QUESTIONS, and of the class "nothing" among the kinds, which half of all patches have.
_WEIGHTS: Final = (1.0, 0.5, 0.5, 0.5, 0.5, 0.1)
_NOTHING_WEIGHT: Final = 0.1
_LOG_EVERY: Final = 100


class Answers(nn.Module):
    """Linear heads that predict every label from a patch's feature. They are not part of the checkpoint."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._sizes = [size for _, size in QUESTIONS]
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, sum(self._sizes))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Map features (n, patches, width) to logits (n, patches, classes), one tensor per label."""
        answers: tuple[Tensor, ...] = self.out(self.norm(features)).split(self._sizes, -1)
        return answers


def answers_loss(answers: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Return the weighted cross-entropy; `labels` is int (n, questions, patches) with `IGNORED` for missing labels."""
    total = torch.zeros(())
    for question, (logits, weight) in enumerate(zip(answers, _WEIGHTS, strict=True)):
        classes = torch.ones(logits.shape[-1])
        if question == 0:
            classes[-1] = _NOTHING_WEIGHT
        target = labels[:, question].flatten().long()
        logits = logits.flatten(0, 1).float()
        total = total + weight * functional.cross_entropy(logits, target, classes, ignore_index=IGNORED)
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


def train_tower(tower: CLIPVisionModel, heads: Answers, pool: Pool, held_out: Pool, steps: int, seed: int) -> None:
    """Train tower and heads in place; logs the loss and the held-out accuracy of each label."""
    optimizer = Optimizer((tower, heads), RATE, steps)
    rng = torch.Generator().manual_seed(seed)
    tower.train()
    start = time.monotonic()
    for step, chosen in zip(range(1, steps + 1), batches(len(pool.pixels), BATCH, seed), strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            answers = heads(tower(pixels(pool, chosen, rng)).last_hidden_state[:, 1:])
        loss = answers_loss(answers, torch.from_numpy(pool.answers[chosen]))
        optimizer.step(loss)
        if step % _LOG_EVERY == 0 or step == steps:
            accuracies = " ".join(f"{name} {share:.3f}" for name, share in label_accuracies(tower, heads, held_out))
            seconds = time.monotonic() - start
            log.info("tower step %d of %d loss %.3f %s %.0f s", step, steps, float(loss.detach()), accuracies, seconds)


@torch.no_grad()
def label_accuracies(tower: CLIPVisionModel, heads: Answers, pool: Pool, count: int = 400) -> list[tuple[str, float]]:
    """Return the accuracy of each label over patches that have it (kinds: only patches with an object)."""
    with torch.autocast("cpu", torch.bfloat16):
        answers = heads(tower(pixels(pool, np.arange(min(count, len(pool.pixels))))).last_hidden_state[:, 1:])
    accuracies = []
    for question, (name, size) in enumerate(QUESTIONS):
        labels = torch.from_numpy(pool.answers[:count, question]).long()
        labeled = (labels != IGNORED) & ((labels != size - 1) if name == "kind" else True)
        accuracies.append((name, float((answers[question].argmax(-1) == labels)[labeled].float().mean())))
    return accuracies
