"""From stored pixels to what the model sees: CLIP's normalisation, and a random crop where the run asks for one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


class Normalise:
    """Callable on uint8 [n, size, size, 3], the names of the samples and the epoch: float32 [n, 3, size, size].

    Which crop a sample has in an epoch follows from seed, uid and epoch, whatever batch and process it is in.
    """

    def __init__(self, seed: int, crop_scale: float, device: torch.device) -> None:
        self._seed = seed
        self._scale = crop_scale
        self._device = device
        # (x / 255 - mean) / deviation as one multiplication and one addition
        deviation = torch.tensor(OPENAI_CLIP_STD, device=device).view(1, 3, 1, 1)
        self._factor = 1 / (255 * deviation)
        self._shift = -torch.tensor(OPENAI_CLIP_MEAN, device=device).view(1, 3, 1, 1) / deviation

    def __call__(self, pixels: torch.Tensor, uids: Sequence[str], epoch: int) -> torch.Tensor:
        values = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32)
        if self._scale < 1:
            values = self._crop(values, crops(self._seed, uids, epoch))
        return values * self._factor + self._shift

    def _crop(self, values: torch.Tensor, drawn: NDArray[np.float32]) -> torch.Tensor:
        """Show a square window of each image, its area drawn between `crop_scale` and 1, at the full size."""
        side = np.sqrt(self._scale + (1 - self._scale) * drawn[:, 0])
        centre = (drawn[:, 1:] * 2 - 1) * (1 - side)[:, None]
        window = np.zeros((len(drawn), 2, 3), dtype=np.float32)
        window[:, 0, 0] = window[:, 1, 1] = side
        window[:, :, 2] = centre
        grid = F.affine_grid(torch.from_numpy(window).to(self._device), list(values.shape), align_corners=False)
        return F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)


def crops(seed: int, uids: Sequence[str], epoch: int) -> NDArray[np.float32]:
    """Return three numbers from 0 up to 1 for each sample: float32 [n, 3]."""
    words = (f"{seed}/{uid}/{epoch}/crop".encode() for uid in uids)
    drawn = b"".join(hashlib.blake2b(word, digest_size=12).digest() for word in words)
    # 24 bits each: a float32 holds them exactly, and never rounds up to 1
    return (np.frombuffer(drawn, "<u4").reshape(-1, 3) >> 8).astype(np.float32) / np.float32(1 << 24)
