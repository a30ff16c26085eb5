"""Recall@k between images and captions.

As in CLIP_benchmark, an image that has several captions is found if any of them is among the first k, and a caption
is found if its one image is. Ties count against the model: whatever is as similar as the right answer stands before
it, so a model that gives everything the same feature scores nothing. (CLIP_benchmark breaks ties by position.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

_BLOCK = 4_000_000  # similarities held at once: 16 MB of float32


def image_ranks(images: torch.Tensor, texts: torch.Tensor, caption_of: Sequence[int]) -> NDArray[np.int64]:
    """Return for each image how many captions of others stand before its best one.

    *images* [n, d] and *texts* [m, d] are float32 of length 1; *caption_of* has each caption's image. Images without
    a caption are left out.
    """
    owners = torch.tensor(caption_of)
    asked = torch.unique(owners)
    ranks = []
    for block in asked.split(max(1, _BLOCK // len(texts))):
        similar = images[block] @ texts.T
        right = owners[None, :] == block[:, None]
        best = similar.masked_fill(~right, -math.inf).amax(dim=1, keepdim=True)
        ranks.append(((similar >= best) & ~right).sum(dim=1))
    return torch.cat(ranks).numpy()


def text_ranks(images: torch.Tensor, texts: torch.Tensor, caption_of: Sequence[int]) -> NDArray[np.int64]:
    """Return for each caption how many other images stand before its own. Shapes as for `image_ranks`.

    Images without a caption are no candidates.
    """
    owners = torch.tensor(caption_of)
    candidates, positions = torch.unique(owners, return_inverse=True)
    ranks = []
    for block in torch.arange(len(texts)).split(max(1, _BLOCK // len(candidates))):
        similar = texts[block] @ images[candidates].T
        own = positions[block][:, None]
        before = (similar >= similar.gather(1, own)).scatter_(1, own, False)
        ranks.append(before.sum(dim=1))
    return torch.cat(ranks).numpy()


def recall(ranks: NDArray[np.int64], k: int) -> float:
    """Return the share of *ranks* below *k*, in 0 to 1."""
    return float((ranks < k).mean())


def chance_image_to_text(caption_of: Sequence[int], k: int) -> float:
    """Return the recall@k to expect of a random order of the captions, any of an image's captions counting."""
    total = len(caption_of)
    counts = np.bincount(np.asarray(caption_of))
    missed = [_misses(total, int(count), k) for count in counts[counts > 0]]
    return 1 - sum(missed) / len(missed)


def chance_text_to_image(caption_of: Sequence[int], k: int) -> float:
    """Return the recall@k to expect of a random order of the images."""
    return min(1.0, k / len(set(caption_of)))


def _misses(total: int, right: int, k: int) -> float:
    """Return the chance that none of the first *k* of *total* is one of the *right* ones."""
    if k > total - right:
        return 0.0
    return math.comb(total - right, k) / math.comb(total, k)
