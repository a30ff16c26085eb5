"""From stored pixels to what the model sees: CLIP's normalisation, and a random crop where the run asks for one."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from vecap_tasks.train.images import Pixels


class Normalise:
    """Callable on uint8 [n, size, size, 3] and a step: float32 [n, 3, size, size] on the run's device."""

    def __init__(self, seed: int, crop_scale: float, device: torch.device) -> None:
        self._seed = seed
        self._scale = crop_scale
        self._device = device
        # (x / 255 - mean) / deviation as one multiplication and one addition
        deviation = torch.tensor(OPENAI_CLIP_STD, device=device).view(1, 3, 1, 1)
        self._factor = 1 / (255 * deviation)
        self._shift = -torch.tensor(OPENAI_CLIP_MEAN, device=device).view(1, 3, 1, 1) / deviation

    def __call__(self, pixels: Pixels, step: int) -> torch.Tensor:
        values = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).to(torch.float32)
        if self._scale < 1:
            values = self._crop(values, step)
        return values * self._factor + self._shift

    def _crop(self, values: torch.Tensor, step: int) -> torch.Tensor:
        """Show a square window of each image, its area drawn between `crop_scale` and 1, at the full size."""
        count = len(values)
        drawn = np.random.default_rng([self._seed, step, 1]).random((count, 3), dtype=np.float32)
        side = np.sqrt(self._scale + (1 - self._scale) * drawn[:, 0])
        centre = (drawn[:, 1:] * 2 - 1) * (1 - side)[:, None]
        window = np.zeros((count, 2, 3), dtype=np.float32)
        window[:, 0, 0] = window[:, 1, 1] = side
        window[:, :, 2] = centre
        grid = F.affine_grid(torch.from_numpy(window).to(self._device), list(values.shape), align_corners=False)
        return F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
